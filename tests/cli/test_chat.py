"""`counterpoint chat`: the conversation as a value, the commands, Ctrl-C, pastes and the end of input."""

import json
import os
import pty
import select
import signal
import subprocess
import sys
import termios
from pathlib import Path

import pytest
import torch
from patience import PATIENCE_S, wait_for
from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM

import counterpoint as cp
from counterpoint.cli.talk.commands import COMMANDS
from counterpoint.cli.talk.session import Controls, Session
from counterpoint.contexts import NO_SYSTEM, Conversation, Exchange
from counterpoint.errors import PromptError
from counterpoint.models.loading import BUNDLED

TEMPLATE = "{% for m in messages %}<{{ m.role }}>{{ m.content }}\n{% endfor %}{% if add_generation_prompt %}<assistant>{% endif %}"


def talker(context_len=512):
    tokenizer = AutoTokenizer.from_pretrained(BUNDLED)
    tokenizer.chat_template = TEMPLATE
    config = LlamaConfig(
        hidden_size=32, intermediate_size=32, num_hidden_layers=1, num_attention_heads=2, vocab_size=len(tokenizer),
        max_position_embeddings=context_len, bos_token_id=tokenizer.bos_token_id, eos_token_id=tokenizer.eos_token_id,
        initializer_range=0.5,
    )  # fmt: skip
    torch.manual_seed(5)
    return LlamaForCausalLM(config), tokenizer


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("talker")
    for part in talker(context_len=1024):
        part.save_pretrained(path)
    return path


@pytest.fixture
def session():
    hf, tokenizer = talker()
    sampling = {"max_tokens": 12, "temperature": 1.0, "seed": 3, "ignore_eos": True}
    conversation = Conversation(system="Be kind.", negative="Be rude.")
    return Session(cp.Model(hf, tokenizer, name="tiny"), conversation, Controls(cp.Guide(2.0), sampling))


def test_a_conversation_is_a_value():
    empty = Conversation(system="S", negative=NO_SYSTEM)
    asked = empty.asked("one")
    whole = asked.answered("1").asked("two").answered("2")
    assert empty.messages == [{"role": "system", "content": "S"}] and asked.is_open and not whole.is_open
    assert [m["content"] for m in whole.messages] == ["S", "one", "1", "two", "2"]
    assert whole.undone() == asked.answered("1")
    assert (
        whole.reopened() == asked.answered("1").asked("two") and whole.asked("x").asked("y").exchanges[-1].user == "y"
    )
    assert Conversation.parse(json.dumps(whole.to_dict())) == whole
    assert Conversation.from_dict(whole.messages) == whole.under(system="S", negative=None)
    assert whole.shortened(lambda c: len(c.exchanges) == 1).exchanges == (Exchange("two", "2"),)
    for wrong in (lambda: empty.answered("x"), lambda: empty.asked(" "), lambda: Conversation.parse("{"), empty.undone):
        with pytest.raises(PromptError):
            wrong()


def test_answers_are_those_of_generate_whatever_was_kept_of_earlier_turns(session):
    for text in ("Hello.", "What now?"):
        shown = "".join(session.say(text))
        asked = Conversation(session.conversation.exchanges[:-1], "Be kind.", "Be rude.").asked(text)
        done = cp.generate(
            session.model, asked.prompt(session.model), guide=cp.Guide(2.0),
            **session.controls.sampling | {"seed": session.last_seed},
        )  # fmt: skip
        assert shown == done.text and session.last_trace.text == done.text
        assert session.conversation.exchanges[-1].answer == done.text.strip()


def test_unguided_stands_beside_and_keep_takes_it(session):
    guided = "".join(session.say("Hello."))
    before = session.conversation
    plain = "".join(session.unguided())
    assert plain != guided and session.conversation == before and session.last_trace.text == guided
    alone = before.reopened().under(system="Be kind.", negative=None)
    options = session.controls.sampling | {"seed": session.last_seed}
    assert plain == cp.generate(session.model, alone.prompt(session.model), **options).text
    assert session.keep() and session.conversation.exchanges[-1].answer == plain.strip() and not session.keep()


def test_what_is_cut_off_stays_and_its_rows_are_free(session):
    answer = session.say("Hello.")
    begun = ""
    while len(begun) < 3:
        begun += next(answer)
    answer.close()
    assert session.engine.is_idle and session.conversation.exchanges[-1].answer == begun.strip()
    assert session.last_trace.finish_reason == "cancelled"
    assert "".join(session.say("Go on."))


def test_the_oldest_is_forgotten_where_the_context_is_full(session):
    for number in range(16):
        "".join(session.say(f"This is message number {number} of a long conversation that goes on and on."))
    assert session.num_forgotten > 0 and session.conversation.exchanges[-1].user.startswith("This is message number 15")
    before = session.conversation
    with pytest.raises(PromptError, match="shorten"):
        session.say("long " * 3000)
    assert session.conversation == before


def test_every_command_through_a_pipe(run, folder, tmp_path):
    typed = [
        "/settings", "Hello.", "/scale 2.5", "/negative Be rude.", "/space prob", "/plausibility 0.1", "/system Be kind.",
        "/temperature 0.5", "/max-tokens 9", "/seed 4", "What now?", "/why", f"/why {tmp_path / 'why.html'}", "/unguided",
        "/keep", "/again", "/history", f"/save {tmp_path / 'talk.json'}", "/undo", "/clear", f"/load {tmp_path / 'talk.json'}",
        "/negative none", "/negative off", "/system off", "/help", "//not a command", '"""', "two", 'lines"""', "one \\", "more",
        "/scael 2", "/scale much", "/space both", "/undo now", "/quit", "never said",
    ]  # fmt: skip
    assert {line[1:].split()[0] for line in typed if line.startswith("/") and line[1:2].isalpha()} > set(COMMANDS)
    status, out, err = run("chat", "--model", folder, "--max-tokens", "6", stdin="\n".join(typed).encode())
    assert status == 0 and "never said" not in out
    for words in ("scale is 2.5 (it takes effect with a /negative)", "against 'Be rude.', at scale 2.5", "space is prob",
                  "user: Hello.", "2 exchanges are read", "against the none system message", "there is no negative",
                  "it is in the conversation now", "the last exchange is gone; 1 are left", "conditional"):  # fmt: skip
        assert words in out, words
    for words in ("did you mean /scale?", "scale is 'much'; use a number", "space is 'both'", "/undo takes nothing"):
        assert words in err, words
    assert (tmp_path / "why.html").read_text().startswith("<!doctype html>") and "Be rude." in (
        tmp_path / "talk.json"
    ).read_text()


def test_a_model_without_a_chat_template_is_told(run):
    status, _, err = run("chat", "--model", "bundled", stdin=b"Hello.\n")
    assert status == 2 and "no chat template" in err and err.count("\n") == 1


SLOWLY = Path(__file__).parents[1] / "slowly.py"


class Terminal:
    """The command on a terminal of its own. What it writes takes so many steps quickly, and half a second for each other."""

    def __init__(self, steps, *arguments):
        # No fork of this process: libraries with threads in it warn of that.
        self.fd, theirs = pty.openpty()
        begin = (
            "import os, signal, sys; os.open(os.ttyname(0), os.O_RDWR); "  # the terminal of the new session
            "signal.signal(signal.SIGINT, signal.SIG_DFL); "
            "os.execv(sys.executable, [sys.executable, *sys.argv[1:]])"
        )
        environment = {**os.environ, "TERM": "xterm", "XDG_STATE_HOME": str(arguments[-1])}
        self.process = subprocess.Popen(
            [sys.executable, "-c", begin, SLOWLY, str(steps), *map(str, arguments[:-1])],
            stdin=theirs, stdout=theirs, stderr=theirs, env=environment, start_new_session=True,
        )  # fmt: skip
        os.close(theirs)
        self.seen = ""

    def send(self, text):
        data = text.encode()
        while data:
            data = data[os.write(self.fd, data[:512]) :]
            self.read(0.01)

    def read(self, seconds):
        """What comes, until nothing has come for so long."""
        while select.select([self.fd], [], [], seconds)[0]:
            try:
                self.seen += os.read(self.fd, 65536).decode(errors="replace")
            except OSError:
                return

    def until(self, words):
        wait_for(lambda: self.read(0.02) or words in self.seen, lambda: self.seen[-2000:])
        self.seen = self.seen.partition(words)[2]

    def until_it_asks(self):
        """Until what is typed is read key by key; before that the terminal takes lines, of 4096 bytes at most."""
        wait_for(
            lambda: self.read(0.02) or not termios.tcgetattr(self.fd)[3] & termios.ICANON, lambda: self.seen[-2000:]
        )


def test_on_a_terminal(folder, tmp_path):
    terminal = Terminal(100, "chat", "--model", folder, "--max-tokens", "800", "--ignore-eos", tmp_path)
    try:
        terminal.until("Ctrl-D ends")
        terminal.until_it_asks()
        terminal.send("Hello.\r")
        terminal.until("Hello.")
        wait_for(lambda: terminal.read(0.02) or len(terminal.seen) > 60)  # it is writing
        terminal.process.send_signal(signal.SIGINT)  # in the middle of an answer
        terminal.until("[stopped]")
        terminal.until_it_asks()
        terminal.send("/max-tokens 5\r")
        terminal.until("max-tokens is 5")
        terminal.until_it_asks()
        terminal.send("\x1b[200~" + "paste it now\n" * 150 + "\x1b[201~\r")  # bracketed, of several lines
        terminal.until("cut at /max-tokens 5")
        terminal.until_it_asks()
        terminal.send("/history\r")
        terminal.until("user: paste it now")
        terminal.until("assistant: ")
        terminal.until_it_asks()
        terminal.send("word " * 2000 + "\r")  # 10,000 characters in one line, longer than the context
        terminal.until("shorten it")
        terminal.until_it_asks()
        terminal.send("\x04")
        assert terminal.process.wait(PATIENCE_S) == 0
    finally:
        terminal.process.kill()
        terminal.process.wait()
        os.close(terminal.fd)
    assert "Hello." in (tmp_path / "counterpoint" / "chat_history").read_text()
