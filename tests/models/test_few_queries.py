"""The kernel gives torch's attention, at every size and stride, and reads nothing that a row may not attend to."""

import pytest
import torch
from torch.nn.functional import scaled_dot_product_attention

from counterpoint.errors import CompileWarning
from counterpoint.models.kernels import build, few_queries

pytestmark = pytest.mark.skipif(not build.has_compiler(), reason="no C compiler")


def made(dtype, num_rows, num_heads, num_groups, num_queries, num_keys, size, value_size, *, seed=0):
    source = torch.Generator().manual_seed(seed)
    query = torch.randn(num_rows, num_heads, num_queries, size, generator=source).to(dtype)
    key = torch.randn(num_rows, num_groups, num_keys, size, generator=source).to(dtype)
    value = torch.randn(num_rows, num_groups, num_keys, value_size, generator=source).to(dtype)
    mask = torch.rand(num_rows, 1, num_queries, num_keys, generator=source) > 0.3
    mask[..., 0] = True
    return query, key, value, mask


def wanted(query, key, value, mask, scaling):
    wide = (x.double().repeat_interleave(query.shape[1] // key.shape[1], 1) for x in (key, value))
    return scaled_dot_product_attention(query.double(), *wide, mask, scale=scaling).transpose(1, 2)


def is_near(got, want):
    rounding = torch.finfo(got.dtype).eps
    return bool(((got.double() - want).abs() <= rounding * want.abs() + 1e-5 * want.abs().max()).all())


@pytest.mark.parametrize("dtype", few_queries.NAMES)
@pytest.mark.parametrize(
    "sizes",
    [
        (1, 1, 1, 1, 1, 1, 1),
        (1, 12, 12, 1, 64, 64, 64),
        (3, 4, 2, 1, 65, 32, 32),
        (2, 6, 2, 5, 200, 40, 24),
        (2, 8, 1, 3, 63, 33, 17),
        (1, 4, 4, 7, 129, 128, 80),
    ],
)
@pytest.mark.parametrize("scaling", [0.125, 3.0])
def test_equal_to_torch(dtype, sizes, scaling):
    given = made(dtype, *sizes)
    got = few_queries.few_queries(*given, scaling)
    assert got.dtype is dtype and got.is_contiguous()
    assert is_near(got, wanted(*given, scaling))


@pytest.mark.parametrize("dtype", few_queries.NAMES)
def test_views_of_larger_buffers(dtype):
    query, key, value, mask = made(dtype, 5, 4, 2, 3, 90, 16, 16)
    mask = mask.expand(5, 4, 3, 90).clone()
    mask[:, 1, :, 1:40] = False  # a mask for each head
    given = query.transpose(1, 2).contiguous().transpose(1, 2)[1:4], key[1:4, :, :77], value[1:4, :, :77]
    for m in (mask[1:4, :, :, :77], mask[1:4, :1, :, :77], mask[1:2, :1, :, :77].expand(3, 1, 3, 77)):
        assert is_near(few_queries.few_queries(*given, m, 0.25), wanted(*given, m, 0.25))
    key_t, value_t = (x.transpose(2, 3).contiguous().transpose(2, 3) for x in given[1:])
    assert is_near(few_queries.few_queries(given[0], key_t, value_t, m, 0.25), wanted(*given, m, 0.25))


def test_scores_far_apart():
    query, key, value, mask = made(torch.float32, 1, 1, 1, 2, 300, 8, 8)
    key[:, :, 250] = 60 * query[:, :, 0]  # a maximum that comes late, and scores beyond what e^x can hold
    assert is_near(few_queries.few_queries(query, key, value, mask, 20.0), wanted(query, key, value, mask, 20.0))


@pytest.mark.parametrize("dtype", few_queries.NAMES)
def test_what_lies_outside_is_not_read(dtype):
    query, key, value, mask = made(dtype, 2, 2, 2, 2, 200, 16, 16)
    mask[0, ..., :20] = mask[0, ..., 70:] = False
    want = few_queries.few_queries(query, key, value, mask, 0.25)
    for states in (key, value):
        states[0, :, :20] = states[0, :, 70:] = float("nan")
    assert torch.equal(few_queries.few_queries(query, key, value, mask, 0.25), want)


@pytest.mark.parametrize("dtype", few_queries.NAMES)
def test_numbers_that_are_not_finite_stay_in_their_query(dtype):
    query, key, value, mask = made(dtype, 3, 2, 1, 2, 70, 16, 16)
    want = few_queries.few_queries(query, key, value, mask, 0.25)
    query[1, 0, 1, 3] = float("nan")
    got = few_queries.few_queries(query, key, value, mask, 0.25)
    assert bool(got[1, 1, 0].isnan().all())
    got[1, 1, 0] = want[1, 1, 0]
    assert torch.equal(got, want)


def test_a_query_that_may_attend_to_nothing_gets_0():
    query, key, value, mask = made(torch.float32, 2, 2, 2, 2, 70, 16, 16)
    want = wanted(query, key, value, mask, 0.25)
    mask[1, :, 1] = False
    got = few_queries.few_queries(query, key, value, mask, 0.25)
    assert not got[1, 1].any()
    assert is_near(got[0], want[0]) and is_near(got[1, 0], want[1, 0])
    assert few_queries.few_queries(query[:0], key[:0], value[:0], mask[:0], 0.25).shape == (0, 2, 2, 16)


@pytest.mark.parametrize(
    "change",
    [
        lambda q, k, v, m: (q, k[:, :, :-1], v, m),
        lambda q, k, v, m: (q, k.bfloat16(), v, m),
        lambda q, k, v, m: (q.repeat(1, 2, 1, 1)[:, :3], k, v, m),
        lambda q, k, v, m: (q, k, v, m[..., :-1]),
        lambda q, k, v, m: (q, k, v, m[:1]),
        lambda q, k, v, m: (q, k, v, m.float()),
    ],
)
def test_what_does_not_belong_together_is_refused(change):
    with pytest.raises(ValueError, match="belong together"):
        few_queries.few_queries(*change(*made(torch.float32, 2, 2, 2, 2, 70, 16, 16)), 0.25)


def test_any_number_of_threads_gives_the_same():
    given, before, got = made(torch.float32, 3, 4, 2, 2, 700, 32, 32), torch.get_num_threads(), []
    try:
        for num_threads in (1, 2, 3):
            torch.set_num_threads(num_threads)
            got.append(few_queries.few_queries(*given, 0.25))
    finally:
        torch.set_num_threads(before)
    assert torch.equal(got[0], got[1]) and torch.equal(got[0], got[2])


def test_where_there_is_a_compiler_there_is_a_kernel():
    assert few_queries.is_available()


def test_a_kernel_that_gives_something_else_is_not_used(monkeypatch):
    right = few_queries._attended
    monkeypatch.setattr(few_queries, "_attended", lambda *arguments: right(*arguments) * 1.1)
    build._warn.cache_clear()
    with pytest.warns(CompileWarning, match="few_queries gives other results than torch"):
        assert not few_queries.is_available.__wrapped__()
