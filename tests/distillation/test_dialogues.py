import json

import pytest

from counterpoint.contexts import Conversation, Exchange
from counterpoint.distillation import Dialogue, read_file, read_rule
from counterpoint.distillation.dialogues import as_prompt, split
from counterpoint.distillation.rules import keeps_all
from counterpoint.errors import PromptError, UsageError


def test_a_file_has_texts_and_objects(tmp_path):
    path = tmp_path / "prompts.txt"
    lines = [
        "What is tea? ",
        "",
        json.dumps({"turns": ["One?", "Two?"], "system": "Be kind.", "negative": "Be rude."}),
        json.dumps({"messages": [{"role": "user", "content": "A"}, {"role": "assistant", "content": "B"},
                                 {"role": "user", "content": "C"}]}),
    ]  # fmt: skip
    path.write_text("\n".join(lines))
    assert read_file(path) == [
        Dialogue(("What is tea?",)),
        Dialogue(("One?", "Two?"), system="Be kind.", negative="Be rude."),
        Dialogue(("A", "C"), ("B",)),
    ]


@pytest.mark.parametrize(
    "line, said",
    [
        ("{", "line 2: not valid JSON"),
        ('{"text": "a"}', "line 2: unknown field 'text'; known are prompt"),
        ('{"prompt": "a", "turns": ["b"]}', "line 2: it has prompt and turns; give one"),
        ('{"system": "a"}', "line 2: it has no prompt"),
        ('{"turns": [1]}', "line 2: turns is"),
        ('{"turns": ["a", " "]}', "line 2: a prompt is empty"),
        ('{"prompt": ""}', "line 2: prompt is ''"),
        ('{"prompt": "a", "negative": 3}', "line 2: negative is 3"),
        (
            '{"messages": [{"role": "user", "content": "A"}, {"role": "assistant", "content": "B"}]}',
            "ends with an answer",
        ),
    ],
)
def test_a_line_that_is_wrong_is_named(tmp_path, line, said):
    path = tmp_path / "prompts.txt"
    path.write_text("What?\n" + line)
    with pytest.raises(PromptError, match=said):
        read_file(path)


def test_files_that_hold_nothing(tmp_path):
    (tmp_path / "empty").write_text("\n \n")
    with pytest.raises(PromptError, match="holds no prompt; write one a line"):
        read_file(tmp_path / "empty")
    with pytest.raises(PromptError, match="can't be read: No such file"):
        read_file(tmp_path / "missing")


def test_conversations_and_other_prompts():
    open_one = Conversation((Exchange("A", "B"), Exchange("C")), system="S", negative="N")
    assert as_prompt(open_one) == Dialogue(("A", "C"), ("B",), "S", "N")
    assert as_prompt([3, 4]) == [3, 4]


def test_held_out_prompts_depend_on_the_seed_alone():
    learnt, held = split(range(20), 0.1, 0)
    assert len(held) == 2 and sorted(learnt + held) == list(range(20))
    assert split(range(20), 0.1, 0) == (learnt, held) != split(range(20), 0.1, 1)
    assert len(split(range(3), 0.01, 0)[1]) == 1 and split(range(3), 0, 0)[1] == []


def test_rules():
    def kept(rule, text, ended=True):
        return keeps_all([read_rule(rule)], text, ended)

    assert kept("regex=(?i)^yes", "Yes, it is.") and not kept("regex=^no", "Yes.")
    assert kept("no=rude", "kind words") and not kept("no=rude", "rude words")
    assert kept("at-most-words=3", "one two three") and not kept("at-most-words=3", "one two three four")
    assert not kept("at-most-words=3", "one two", ended=False) and not kept("ended=yes", "one", ended=False)
    assert kept("instruction=one sentence", "It is tea.") and not kept("instruction=one sentence", "It is. Tea.")
    assert not keeps_all([], "...", True)  # without a word


@pytest.mark.parametrize(
    "rule, said",
    [
        ("short", "not KIND=VALUE; kinds are regex"),
        ("length=3", "unknown kind"),
        ("regex=(", "can't be read"),
        ("at-most-words=none", "has no count"),
        ("instruction=sing", "no instruction 'sing'; known are one sentence"),
    ],
)
def test_rules_that_can_not_be_read(rule, said):
    with pytest.raises(UsageError, match=said):
        read_rule(rule)
