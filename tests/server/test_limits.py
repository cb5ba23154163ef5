import pytest
import torch
from conformance.architectures import ARCHITECTURES

import counterpoint as cp
from counterpoint.engine import Engine, prepare
from counterpoint.errors import UsageError
from counterpoint.server.limits import Limits, rows_in, token_bytes
from counterpoint.server.process import within_memory

TOKEN_BYTES = 2 * 2 * 2 * 8 * 4  # keys and values, layers, heads, width, bytes of a float32


def test_a_token_takes_what_the_configuration_says(model):
    assert token_bytes(model) == TOKEN_BYTES


@pytest.mark.parametrize(
    "rows, num_bytes", [(1, 512 * TOKEN_BYTES), (4, 5 * 512 * TOKEN_BYTES), (8, 8 * 512 * TOKEN_BYTES)]
)
def test_rows_follow_from_memory(model, rows, num_bytes):
    assert rows_in(model, num_bytes, 500) == rows
    assert within_memory(model, Limits(prefix_tokens=0), num_bytes).max_rows == rows
    short = Limits(prefix_tokens=0, max_prompt_tokens=100, max_tokens=156)
    assert within_memory(model, short, num_bytes).max_rows == 2 * rows


@pytest.mark.parametrize("asked, kept, rows", [(4096, 1024, 4), (512, 512, 4), (0, 0, 8)])
def test_kept_prefixes_are_part_of_the_memory(model, asked, kept, rows):
    within = within_memory(model, Limits(prefix_tokens=asked), 8 * 512 * TOKEN_BYTES)
    assert (within.prefix_tokens, within.max_rows) == (kept, rows)


def test_the_bound_holds_with_all_rows_in_use(model):
    num_bytes = 5 * 512 * TOKEN_BYTES
    engine = Engine(model, max_rows=rows_in(model, num_bytes, 512))
    for i in range(12):
        engine.add(prepare(model, [10 + i] * 505, max_tokens=8, temperature=0, ignore_eos=True))
    most = 0
    while not engine.is_idle:
        engine.step()
        most = max(most, *(rows.num_bytes for rows in engine._rows.values()))
    assert 0.75 * num_bytes < most <= num_bytes


def test_too_little_memory(model):
    with pytest.raises(UsageError, match="one row of 512 tokens takes"):
        rows_in(model, 1000, 512)


def test_a_state_has_no_size_in_tokens():
    torch.manual_seed(0)
    mamba = cp.Model(ARCHITECTURES["mamba"].model())
    with pytest.raises(UsageError, match="--max-rows"):
        rows_in(mamba, 2**30, 512)


@pytest.mark.parametrize(
    "fields, words",
    [
        ({"max_rows": 0}, "max_rows is 0"),
        ({"deadline_s": float("nan")}, "deadline_s is nan"),
        ({"max_tokens": -1}, "max_tokens is -1"),
        ({"prefix_tokens": -1}, "prefix_tokens is -1"),
        ({"max_waiting": 10}, "max_waiting is 10, below max_samples"),
    ],
)
def test_limits_that_cannot_be(fields, words):
    with pytest.raises(UsageError, match=words):
        Limits(**fields)
