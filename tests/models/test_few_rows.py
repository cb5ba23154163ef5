"""The kernel gives torch's products, at every size, and there is none where it can't be made."""

import pytest
import torch

from counterpoint.errors import CompileWarning
from counterpoint.models.kernels import build, few_rows

needs_kernel = pytest.mark.skipif(not build.has_compiler(), reason="no C compiler")


@needs_kernel
@pytest.mark.parametrize("dtype", few_rows.MOST_ROWS)
@pytest.mark.parametrize(
    "num_rows, size, num_out",
    [
        (1, 64, 8),
        (2, 100, 9),
        (3, 1, 3),
        (7, 33, 1),
        (9, 768, 130),
        (2, 8200, 6),
        (17, 36, 47),
        (33, 64, 37),
        (21, 33, 5),
    ],
)
def test_equal_to_torch(dtype, num_rows, size, num_out):
    torch.manual_seed(0)
    states, bias = torch.randn(num_rows, size).to(dtype), torch.randn(num_out).to(dtype)
    weight = torch.randn(num_out, size).to(dtype)
    got, want = few_rows.few_rows(states, weight, bias), states.double() @ weight.double().T + bias.double()
    assert got.dtype is dtype and got.shape == (num_rows, num_out)
    bound = states.double().abs() @ weight.double().abs().T + bias.double().abs()
    rounding = torch.finfo(dtype).eps / 2 * want.abs() + 3e-5 * bound
    assert bool(((got.double() - want).abs() <= rounding).all())


@needs_kernel
@pytest.mark.parametrize("num_rows", [4, 20])
@pytest.mark.parametrize("dtype", few_rows.MOST_ROWS)
def test_numbers_that_are_not_finite_stay_in_their_row(dtype, num_rows):
    states = torch.ones(num_rows, 72).to(dtype)
    states[1, 3], states[2, 69] = float("nan"), float("inf")
    got = few_rows.few_rows(states, torch.ones(6, 72).to(dtype))
    assert bool((got[[0, 3]] == 72).all()) and not bool(got[[1, 2]].isfinite().any())


@needs_kernel
@pytest.mark.parametrize("dtype", few_rows.MOST_ROWS)
def test_zeros_and_no_rows_and_no_numbers(dtype):
    weight, bias = torch.ones(6, 40).to(dtype), torch.arange(6).to(dtype)
    assert torch.equal(few_rows.few_rows(torch.zeros(2, 40).to(dtype), weight, bias), bias.expand(2, 6))
    assert few_rows.few_rows(torch.zeros(0, 40).to(dtype), weight).shape == (0, 6)
    assert torch.equal(few_rows.few_rows(torch.zeros(2, 0).to(dtype), weight[:, :0].clone(), bias), bias.expand(2, 6))


@needs_kernel
def test_a_weight_that_lies_otherwise_is_refused():
    with pytest.raises(ValueError, match="not contiguous"):
        few_rows.few_rows(torch.randn(2, 8), torch.randn(8, 16).t())


@needs_kernel
def test_a_weight_of_another_size_is_refused():
    with pytest.raises(ValueError, match=r"8 numbers can't be multiplied by a weight \(16, 9\)"):
        few_rows.few_rows(torch.randn(2, 8), torch.randn(16, 9))


@needs_kernel
def test_any_number_of_threads_gives_the_same():
    states, weight = torch.randn(2, 512), torch.randn(403, 512)
    before, got = torch.get_num_threads(), []
    try:
        for num_threads in (1, 2, 3):
            torch.set_num_threads(num_threads)
            got.append(few_rows.few_rows(states, weight))
    finally:
        torch.set_num_threads(before)
    assert torch.equal(got[0], got[1]) and torch.equal(got[0], got[2])


@needs_kernel
def test_where_there_is_a_compiler_there_is_a_kernel():
    assert few_rows.is_available()


@needs_kernel
def test_a_kernel_that_gives_something_else_is_not_used(monkeypatch):
    right = few_rows._product
    monkeypatch.setattr(few_rows, "_product", lambda *arguments: right(*arguments) * 1.1)
    build._warn.cache_clear()
    with pytest.warns(CompileWarning, match="few_rows gives other results than torch"):
        assert not few_rows.is_available.__wrapped__()
