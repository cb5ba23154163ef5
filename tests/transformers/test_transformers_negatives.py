import pytest
import torch

from counterpoint.errors import PromptError
from counterpoint.transformers.negatives import check_vocabulary, read_negatives, spread


def test_padding_goes_from_either_side() -> None:
    ids = torch.tensor([[0, 0, 5, 6], [7, 8, 9, 0]])
    mask = torch.tensor([[0, 0, 1, 1], [1, 1, 1, 0]])
    assert read_negatives(ids, mask) == [(5, 6), (7, 8, 9)]


def test_without_a_mask_pad_tokens_are_padding() -> None:
    ids = torch.tensor([[0, 0, 5, 6], [7, 8, 9, 0]])
    assert read_negatives(ids, None, pad_token_ids=frozenset([0]), eos_token_ids=frozenset([2])) == [(5, 6), (7, 8, 9)]
    assert read_negatives(ids, None) == [(0, 0, 5, 6), (7, 8, 9, 0)]


def test_a_pad_token_that_ends_texts_too_is_no_padding_by_itself() -> None:
    both = {"pad_token_ids": frozenset([0]), "eos_token_ids": frozenset([0])}
    assert read_negatives(torch.tensor([[0, 5, 6]]), None, **both) == [(0, 5, 6)]
    with pytest.raises(PromptError, match=r"shape \(2, 3\) begin or end with token 0.*negative_prompt_attention_mask"):
        read_negatives(torch.tensor([[0, 5, 6], [7, 8, 9]]), None, **both)


@pytest.mark.parametrize(
    ("ids", "mask", "message"),
    [
        ([5, 6], None, "negative_prompt_ids is a list"),
        (torch.tensor([5, 6]), None, r"of shape \(2,\)"),
        (torch.tensor([[0.5]]), None, r"float32"),
        (torch.zeros((1, 0), dtype=torch.long), None, r"shape \(1, 0\) is empty"),
        (torch.tensor([[5, 6]]), torch.tensor([[1, 1, 1]]), r"attention_mask has shape \(1, 3\).*has \(1, 2\)"),
        (
            torch.tensor([[5, 6]]),
            torch.tensor([[0, 0]]),
            r"row 0 of negative_prompt_ids of shape \(1, 2\) is all padding",
        ),
    ],
)
def test_what_is_no_negative(ids: object, mask: torch.Tensor | None, message: str) -> None:
    with pytest.raises(PromptError, match=message):
        read_negatives(ids, mask)


def test_ids_outside_of_the_vocabulary() -> None:
    check_vocabulary([(0, 9)], 10)
    with pytest.raises(PromptError, match="row 1 .* token id 10; this model's ids end at 9"):
        check_vocabulary([(0,), (3, 10)], 10)


def test_one_for_all_one_a_prompt_or_one_a_row() -> None:
    assert spread(1, 4, 2, "x", ()) == [0, 0, 0, 0]
    assert spread(2, 4, 2, "x", ()) == [0, 0, 1, 1]
    assert spread(4, 4, 2, "x", ()) == [0, 1, 2, 3]
    with pytest.raises(PromptError, match=r"x is of shape \(3, 7\) and input_ids of 2 prompt"):
        spread(3, 4, 2, "x", (3, 7))
