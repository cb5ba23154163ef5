"""What teacher and student read, as text."""

import pytest
from contexts.chat_templates import GEMMA, byte_tokenizer
from distillation.small_chat import OPPOSITE, SYSTEM, small_chat

import counterpoint as cp
from counterpoint import Branch
from counterpoint.contexts import DEFAULT_SYSTEM, NO_SYSTEM, BranchedPrompt, Swapped
from counterpoint.distillation.dialogues import Dialogue
from counterpoint.distillation.reading import Contexts
from counterpoint.errors import PromptError, UsageError

TALK = Dialogue(("One?", "Two?", "Three?"))
DEFAULT = "You are a helpful assistant."


@pytest.fixture(scope="module")
def model():
    return small_chat()


def texts(model, reading):
    """(student, teacher's prompt, branches) as people read them."""
    write = model.tokenizer.decode
    return write(reading.student_ids), write(reading.prompt_ids), [write(branch.ids) for branch in reading.branches]


def chatml(system, *said):
    roles = ["system", *["user", "assistant"] * len(said)]
    turns = [f"<|im_start|>{role}\n{text}<|im_end|>\n" for role, text in zip(roles, [system, *said])]
    return "".join(turns) + "<|im_start|>assistant\n"


def test_the_instruction_stays_in_the_first_turn_for_the_student_and_comes_again_for_the_teacher(model):
    contexts = Contexts(cp.Guide(3), OPPOSITE, None, True, SYSTEM)
    student, prompt, (branch,) = texts(model, contexts.read(model, TALK, ["A.", "B."]))
    assert student == chatml(SYSTEM, "One?", "A.", "Two?", "B.", "Three?")
    again = [f"{{}}\n\n{turn}" for turn in ("Two?", "Three?")]
    for found, system in ((prompt, SYSTEM), (branch, OPPOSITE)):
        assert found == chatml(system, "One?", "A.", again[0].format(system), "B.", again[1].format(system))


def test_the_first_turn_is_what_generate_reads(model):
    contexts = Contexts(cp.Guide(3), OPPOSITE, None, True, SYSTEM)
    student, prompt, (branch,) = texts(model, contexts.read(model, TALK))
    assert student == prompt == chatml(SYSTEM, "One?") and branch == chatml(OPPOSITE, "One?")


def test_without_ghost_all_read_the_same_turns(model):
    contexts = Contexts(cp.Guide(3), OPPOSITE, None, True, SYSTEM, ghost=False)
    student, prompt, (branch,) = texts(model, contexts.read(model, TALK, ["A."]))
    assert student == prompt == chatml(SYSTEM, "One?", "A.", "Two?")
    assert branch == chatml(OPPOSITE, "One?", "A.", "Two?")


@pytest.mark.parametrize("named, shown", [(DEFAULT_SYSTEM, DEFAULT), (NO_SYSTEM, "")])
def test_a_negative_without_an_instruction_repeats_none(model, named, shown):
    contexts = Contexts(cp.Guide(3), named, None, True, SYSTEM)
    _, prompt, (branch,) = texts(model, contexts.read(model, TALK, ["A."]))
    assert prompt == chatml(SYSTEM, "One?", "A.", f"{SYSTEM}\n\nTwo?")
    assert branch == chatml(shown, "One?", "A.", "Two?")


def test_several_branches_keep_their_weights(model):
    branches = [Branch(OPPOSITE, -0.5), Branch("Be brief.", 0.25)]
    reading = Contexts(None, None, branches, True, SYSTEM).read(model, TALK, ["A."])
    assert [branch.weight for branch in reading.branches] == [-0.5, 0.25]
    assert texts(model, reading)[2][1] == chatml("Be brief.", "One?", "A.", "Be brief.\n\nTwo?")


def test_a_student_with_a_system_message_of_its_own(model):
    for student, shown in (("Hello.", "Hello."), (DEFAULT_SYSTEM, DEFAULT), (NO_SYSTEM, "")):
        contexts = Contexts(cp.Guide(scale=1), None, None, True, SYSTEM, student)
        own, prompt, branches = texts(model, contexts.read(model, Dialogue(("One?",))))
        assert (own, prompt, branches) == (chatml(shown, "One?"), chatml(SYSTEM, "One?"), [])


def test_a_template_that_shows_no_system_message():
    model = small_chat()
    model.tokenizer = byte_tokenizer(GEMMA)
    contexts = Contexts(cp.Guide(3), OPPOSITE, None, True, SYSTEM)
    student, prompt, (branch,) = texts(model, contexts.read(model, TALK, ["A."]))
    assert student.count(SYSTEM) == 1 and prompt.count(SYSTEM) == 2 and branch.count(OPPOSITE) == 2
    assert SYSTEM not in branch and student.index(SYSTEM) < student.index("One?")


def test_a_prompt_of_its_own_system_and_negative(model):
    contexts = Contexts(cp.Guide(3), OPPOSITE, None, True, SYSTEM)
    own = Dialogue(("One?",), system="Sing.", negative="Speak.")
    assert texts(model, contexts.read(model, own))[1:] == (chatml("Sing.", "One?"), [chatml("Speak.", "One?")])


def test_plain_prompts(model):
    contexts = Contexts(cp.Guide(2), Swapped("Be kind. ", "Be rude. "), student=Swapped("Be kind. "))
    assert texts(model, contexts.read(model, Dialogue(("Be kind. One?",)))) == (
        "One?",
        "Be kind. One?",
        ["Be rude. One?"],
    )
    reading = Contexts(cp.Guide(2), [7, 8]).read(model, [5, 6])
    assert (reading.student_ids, reading.branches[0].ids, reading.branches[0].weight) == ((5, 6), (7, 8), -1.0)


def test_what_can_not_be_read(model):
    with pytest.raises(UsageError, match="no chat; say chat=True"):
        Contexts(system=SYSTEM)
    with pytest.raises(PromptError, match="is a conversation; say chat=True"):
        Contexts(cp.Guide(2), OPPOSITE).read(model, TALK)
    with pytest.raises(PromptError, match="in a chat give texts or messages"):
        Contexts(cp.Guide(2), OPPOSITE, is_chat=True).read(model, [3, 4])
    own = Dialogue(("One?",), negative="Speak.")
    for is_chat in (True, False):
        with pytest.raises(PromptError, match="negative of its own, and branches are given for all; keep one"):
            Contexts(None, None, [Branch(OPPOSITE, -1.0)], is_chat).read(model, own)
    built = BranchedPrompt("One?", (Branch("Two?"),))
    with pytest.raises(UsageError, match="was built with its branches"):
        Contexts(None, OPPOSITE).read(model, built)
    conversation = [{"role": "user", "content": "x"}]
    with pytest.raises(PromptError, match="a whole conversation"):
        Contexts(cp.Guide(2), conversation, None, True, SYSTEM).read(model, TALK, ["A."])
