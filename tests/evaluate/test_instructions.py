"""Every instruction on answers that fulfil it, and on answers that do not."""

import pytest

from counterpoint.evaluate.instructions import INSTRUCTIONS, QUESTIONS, num_sentences

FULFILLED = {
    "one sentence": ["Leaves turn red in autumn.", 'He said "yes."', "It costs 3.50 euros!"],
    "capitals": ["TEA IS HOT. 2 CUPS!"],
    "lower case": ["tea is hot, and good."],
    "a numbered list": ["1. Boil water\n2. Add tea", "Steps:\n 1) Boil\n 2) Pour"],
    "begins with a word": ["Certainly! Here it is.", "certainly, yes"],
    "ends with a question": ["It is hot. Do you like it?", "Do you?**"],
    "in French": ["Le ciel est bleu et les feuilles sont vertes."],
    "at most ten words": ["Boil water and pour it on the leaves.", "Yes."],
    "a word to use": ["The Ocean is deep."],
    "a word to avoid": ["Bees visit flowers and carry nectar home. Other bees gather."],
    "JSON": ['{"answer": 1}', '```json\n{"a": [1, 2]}\n```'],
    "a persona": ["Arr, matey!", "Ahoy there."],
}
NOT = {
    "one sentence": ["One. Two.", "No end of it", "What? Yes."],
    "capitals": ["Tea IS hot", "123"],
    "lower case": ["Tea is hot", "1 2 3"],
    "a numbered list": ["1. Only one", "There are 2. And 3."],
    "begins with a word": ["I am certainly here.", "Certain things"],
    "ends with a question": ["Do you like it? It is hot."],
    "in French": ["The sky is blue and the leaves are green.", "El cielo es azul y las hojas son verdes.", "Oui."],
    "at most ten words": ["one two three four five six seven eight nine ten eleven"],
    "a word to use": ["Oceanic birds"],
    "a word to avoid": ["It is The one."],
    "JSON": ["[1, 2]", '{"a": 1', 'Here: {"a": 1}', '"text"'],
    "a persona": ["Good day to you, young sir."],
}


@pytest.mark.parametrize("one", INSTRUCTIONS, ids=lambda one: one.name)
def test_a_program_decides(one):
    for text in FULFILLED[one.name]:
        assert one.is_fulfilled(text), text
    for text in [*NOT[one.name], "", " \n", "..."]:
        assert not one.is_fulfilled(text), text


def test_what_was_cut_off_has_no_end():
    (short,) = [one for one in INSTRUCTIONS if one.name == "at most ten words"]
    assert short.is_fulfilled("Yes.", is_ended=True) and not short.is_fulfilled("Yes, and", is_ended=False)


def test_there_are_enough_and_each_has_an_opposite():
    assert len(INSTRUCTIONS) >= 12 and len(QUESTIONS) == len(set(QUESTIONS)) == 20
    assert len({one.name for one in INSTRUCTIONS}) == len(INSTRUCTIONS)
    assert all(one.system != one.opposite for one in INSTRUCTIONS)


def test_sentences():
    assert [
        num_sentences(text) for text in ("", "a.b", "One. Two! Three?", "Version 1.2 is out.", "So... it ends.")
    ] == [0, 0, 3, 1, 2]
