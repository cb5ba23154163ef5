import pytest

from counterpoint.report.visible import label, pieces, visible


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("plain é 日本 👩‍🚀 ok", "plain é 日本 👩‍🚀 ok"),
        ("\x1b[31mred\x07", "␛[31mred␇"),
        ("a\nb\tc\rd\x7f", "a↵b⇥c␍d␡"),
        ("\u202eabc\u202c\u2066\u200f", "⟨U+202E⟩abc⟨U+202C⟩⟨U+2066⟩⟨U+200F⟩"),
        ("\u2028\u2029\x85\ufeff\u200b", "⟨U+2028⟩⟨U+2029⟩⟨U+0085⟩⟨U+FEFF⟩⟨U+200B⟩"),
        ("\ud800", "⟨U+D800⟩"),
    ],
)
def test_what_acts_is_written_out(text, shown):
    assert visible(text) == shown


@pytest.mark.parametrize(("text", "shown"), [(" smile", "␣smile"), ("  ", "␣␣"), (" a b ", "␣a b␣"), ("", "")])
def test_label_shows_the_spaces_at_its_ends(text, shown):
    assert label(text) == shown


def test_pieces_keep_a_line_end_after_its_sign():
    assert pieces("ab\n\x1bc") == [("ab", False), ("↵", True), ("\n", False), ("␛", True), ("c", False)]
