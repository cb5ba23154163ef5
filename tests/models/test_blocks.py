"""Products with GGUF's blocks: those of the weights that gguf itself dequantizes."""

import gguf
import numpy as np
import pytest
import torch
from torch import nn

from counterpoint.errors import CompileWarning
from counterpoint.models import blocks as layers
from counterpoint.models.blocks import BlockEmbedding, BlockLinear
from counterpoint.models.kernels import blocks, build

needs_kernel = pytest.mark.skipif(not build.has_compiler(), reason="no C compiler")
KINDS = ["Q8_0", "Q4_0", "Q4_1"]


def made(kind, num_out, size):
    """Blocks whose scales and least numbers are of all signs and sizes, with their weights as gguf reads them."""
    source = np.random.default_rng(num_out + size)
    plain = source.normal(size=(num_out, size)) * 10.0 ** source.integers(-6, 3, (num_out, 1))
    raw = gguf.quantize(plain.astype(np.float32), gguf.GGMLQuantizationType[kind])
    return torch.from_numpy(raw), torch.from_numpy(gguf.dequantize(raw, gguf.GGMLQuantizationType[kind]))


@needs_kernel
@pytest.mark.parametrize("kind", KINDS)
def test_weights_are_those_that_gguf_reads(kind):
    assert blocks.is_available()
    raw, want = made(kind, 37, 96)
    got = blocks.weights(blocks.laid(raw, kind), kind)
    # one rounding less than gguf's where product and sum are made in one
    assert torch.allclose(got, want, rtol=0, atol=0) or kind == "Q4_1"
    assert bool(((got - want).abs() <= 2.0**-23 * 16 * want.abs().amax(1, keepdim=True)).all())


@needs_kernel
def test_every_scale_and_every_byte():
    """All float16 numbers that are finite, subnormal ones and zeros of both signs too, and all bytes."""
    scales = np.arange(65536, dtype=np.uint16)
    scales = scales[np.isfinite(scales.view(np.float16))]
    q = np.resize(np.arange(256, dtype=np.uint8), (len(scales), 32))
    raw = np.concatenate([scales.view(np.uint8).reshape(-1, 2), q], axis=1)
    got = blocks.weights(blocks.laid(torch.from_numpy(raw), "Q8_0"), "Q8_0")
    assert torch.equal(got, torch.from_numpy(gguf.dequantize(raw, gguf.GGMLQuantizationType.Q8_0)))


@needs_kernel
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("num_rows, size, num_out", [(1, 32, 8), (2, 96, 9), (3, 32, 3), (7, 64, 1), (9, 768, 130)])
def test_products(num_rows, size, num_out, kind, dtype):
    raw, weight = made(kind, num_out, size)
    states, bias = torch.randn(num_rows, size).to(dtype), torch.randn(num_out)
    raw = blocks.laid(raw, kind)
    got = blocks.product(states, raw, kind, bias)
    want = states.double() @ weight.double().T + bias
    bound = states.double().abs() @ weight.double().abs().T + bias.abs()
    assert got.dtype is dtype and got.shape == (num_rows, num_out)
    assert bool(((got - want).abs() <= torch.finfo(dtype).eps * want.abs() + 1e-5 * bound).all())
    assert torch.equal(blocks.product(states[:0], raw, kind, bias), states.new_empty(0, num_out))


@needs_kernel
@pytest.mark.parametrize("kind", KINDS)
def test_whole_numbers_at_their_ends_come_out(kind):
    """The largest numbers of every block, where a sum that is too narrow would overflow, in rows beside one that is NaN."""
    raw = torch.full((21, 64 * blocks.BYTES[kind]), 0xFF if kind != "Q8_0" else 0x81, dtype=torch.uint8)
    raw.view(-1, blocks.BYTES[kind])[:, :2] = torch.tensor([0x00, 0x3C])  # 1.0
    if kind == "Q4_1":
        raw.view(-1, 20)[:, 2:4] = 0
    weight = torch.from_numpy(gguf.dequantize(raw.numpy(), gguf.GGMLQuantizationType[kind]))
    for dtype in (torch.float32, torch.bfloat16):
        states = torch.full((3, 2048), -2.0).to(dtype)
        states[1, 40] = float("nan")
        got = blocks.product(states, blocks.laid(raw, kind), kind)
        assert torch.allclose(got[[0, 2]].float(), (states.float() @ weight.T)[[0, 2]], rtol=2**-8)
        assert bool(got[1].isnan().all())


@needs_kernel
@pytest.mark.parametrize("kind", KINDS)
def test_layers(kind):
    raw, weight = made(kind, 40, 64)
    raw = blocks.laid(raw, kind)
    bias, layer = torch.randn(40), None
    layer = BlockLinear(raw, kind, bias)
    for num_rows in (1, layers.MOST_ROWS, layers.MOST_ROWS + 1):
        states = torch.randn(2, num_rows, 64)[:, :: 2 if num_rows > 1 else 1]
        want = nn.functional.linear(states, weight, bias)
        assert torch.allclose(layer(states), want, rtol=1e-4, atol=1e-3 * float(want.abs().max()) / 10)
    ids = torch.tensor([[3, 0], [39, 3]])
    assert torch.allclose(BlockEmbedding(raw, kind, torch.float32)(ids), weight[ids], rtol=1e-5)


@needs_kernel
def test_any_number_of_threads_gives_the_same():
    raw, _ = made("Q4_1", 403, 512)
    raw = blocks.laid(raw, "Q4_1")
    states, before, got = torch.randn(2, 512), torch.get_num_threads(), []
    try:
        for num_threads in (1, 2, 3):
            torch.set_num_threads(num_threads)
            got.append(blocks.product(states, raw, "Q4_1"))
    finally:
        torch.set_num_threads(before)
    assert torch.equal(got[0], got[1]) and torch.equal(got[0], got[2])


@needs_kernel
def test_what_is_no_rows_of_blocks_is_refused():
    raw, _ = made("Q8_0", 8, 64)
    with pytest.raises(ValueError, match="no rows of Q8_0 blocks"):
        blocks.product(torch.randn(1, 64), raw[:, :40].contiguous(), "Q8_0")
    with pytest.raises(ValueError, match=r"32 numbers can't be multiplied by a weight \(8, 64\)"):
        blocks.product(torch.randn(1, 32), raw, "Q8_0")


@needs_kernel
def test_a_wrong_kernel_is_noticed(monkeypatch):
    right = blocks._product
    monkeypatch.setattr(blocks, "_product", lambda *given: right(*given) * 1.01)
    build._warn.cache_clear()
    with pytest.warns(CompileWarning, match="blocks gives other results than torch"):
        assert not blocks.is_available.__wrapped__()
