import pytest

from counterpoint.train.tokenizer import train_tokenizer


@pytest.fixture(scope="module")
def tokenizer():
    return train_tokenizer(["Genre: mystery.\n\nThe cat's 1234 paws.\n"] * 50, vocab=320)


@pytest.mark.parametrize("text", ["", "The cat's paws", " two  spaces\n\n\nand\tté 北京 \U0001f600 ", "e\u0301"])
def test_every_text_comes_back_whole(tokenizer, text):
    assert tokenizer.decode(tokenizer.encode(text).ids) == text


def test_a_header_tokenises_alike_alone_and_before_its_text(tokenizer):
    header, text = "Genre: mystery.\n\n", "The cat"
    alone = tokenizer.encode(header).ids + tokenizer.encode(text, add_special_tokens=False).ids
    assert tokenizer.encode(header + text).ids == alone


def test_special_tokens_and_digits(tokenizer):
    assert [tokenizer.token_to_id(t) for t in ("<s>", "</s>", "<pad>")] == [0, 1, 2]
    assert tokenizer.encode("1234").tokens == ["<s>", "1", "2", "3", "4"]
