import pytest

from counterpoint.errors import PromptError
from counterpoint.vllm.capacity import Capacity

SMALL = Capacity(sequences=3, context_len=100, blocks=6, block_lens=(16,))


def test_the_context_of_the_longest_branch_decides():
    assert Capacity(3, 100, 1000, (16,)).tokens_left([10, 90]) == 10


def test_the_cache_decides():
    # 6 blocks of 16 for two: 3 blocks each are 48 tokens, the longer prompt has 20 of them.
    assert SMALL.tokens_left([10, 20]) == 28
    assert SMALL.needed([38, 48]) == 6
    assert SMALL.needed([39, 49]) == 7


def test_every_kind_of_attention_takes_blocks():
    assert Capacity(3, 100, 6, (16, 32)).needed([33, 10]) == 3 + 2 + 1 + 1


@pytest.mark.parametrize(
    ("lengths", "reason"),
    [([1] * 4, "max-num-seqs"), ([100, 1], "the model's context has 100"), ([64, 33], "need 8 blocks")],
)
def test_what_can_never_run(lengths, reason):
    with pytest.raises(PromptError, match=reason):
        SMALL.tokens_left(lengths)
