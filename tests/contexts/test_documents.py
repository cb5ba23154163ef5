import pytest
from contexts.chat_templates import GEMMA, byte_tokenizer

from counterpoint.contexts import documents, instruction
from counterpoint.errors import PromptError

DOCS = ["The door was red.", "The cat was {question}."]


def texts(built):
    return built.prompt, built.branches[0].context


def test_the_branches_differ_in_the_documents():
    assert texts(documents("What was red?", DOCS)) == (
        "The door was red.\n\nThe cat was {question}.\n\nQuestion: What was red? Answer:",
        "Question: What was red? Answer:",
    )


def test_one_document_can_be_dropped_alone():
    cond, other = texts(documents("What?", DOCS, dropped=[0]))
    assert cond.startswith("The door was red.\n\nThe cat")
    assert other == "The cat was {question}.\n\nQuestion: What? Answer:"


def test_documents_in_the_middle_of_a_template():
    assert texts(documents("Q?", ["D."], template="Read:\n{documents}\nSay: {question}")) == (
        "Read:\nD.\nSay: Q?",
        "Read:\nSay: Q?",
    )


def test_through_a_chat_template_with_a_system_message():
    built = documents("Q?", ["D."], template="{documents} {question}", model=byte_tokenizer(GEMMA), system="Be brief.")
    around = "<s><start_of_turn>user\nBe brief.\n\n{}<end_of_turn>\n<start_of_turn>model\n"
    assert built.prompt.text == around.format("D. Q?")
    assert built.branches[0].context.text == around.format("Q?")


@pytest.mark.parametrize(
    "given, options, reason",
    [
        ([], {}, "not empty"),
        ("one text", {}, "not empty"),
        (["a", " "], {}, "not empty"),
        (["a"], {"dropped": [1]}, "from 0 to 0"),
        (["a"], {"template": "{documents}"}, "needs {question}"),
    ],
)
def test_mistakes_are_named(given, options, reason):
    with pytest.raises(PromptError, match=reason):
        documents("Q?", given, **options)


def test_opposite_instructions():
    assert texts(instruction("Hello", given="Be kind.", opposite="Be rude.")) == (
        "Be kind.\n\nHello",
        "Be rude.\n\nHello",
    )
    assert texts(instruction("Hello", given="Be kind.", joint=" ")) == ("Be kind. Hello", "Hello")
    with pytest.raises(PromptError, match="neither"):
        instruction("", given="Be kind.")
    with pytest.raises(PromptError, match="empty"):
        instruction("Hello", given="")
