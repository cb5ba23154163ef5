"""Linear layers with weights in 8 bits: a quarter of float32's memory, and as much less to read at each step."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from counterpoint.errors import UnsupportedError
from counterpoint.models.blocks import BlockLinear
from counterpoint.models.kernels import blocks, few_rows

MOST_ROWS = 64  # more than these are multiplied by the weights in the states' dtype, made for the moment

ROUNDED_AT_ONCE = 2**16  #: weights


class Int8Linear(nn.Module):
    """y = x W^T + b with W[n, k] = scale[n] * q[n, k], q whole numbers from -127 to 127.

    Args:
        weight: (N, K). Each row is rounded to the nearest q, with scale[n] = max_k |W[n, k]| / 127.
        bias: (N,), or None.
    """

    def __init__(self, weight: Tensor, bias: Tensor | None) -> None:
        super().__init__()
        # What stays is made before what goes, and a few rows go at a time: memory that is left between would be lost.
        num_out, size = weight.shape
        rounded, scale = (
            torch.zeros((num_out, -(-size // blocks.SIZE) * blocks.SIZE), dtype=torch.int8),
            torch.empty(num_out),
        )
        few = max(1, ROUNDED_AT_ONCE // max(size, 1))
        for own, own_rounded, own_scale in zip(weight.detach().split(few), rounded.split(few), scale.split(few)):
            own = own.float()
            own_scale.copy_(own.abs().amax(1) / 127).masked_fill_(own_scale == 0, 1)
            own_rounded[:, :size].copy_((own / own_scale[:, None]).round_())
        self.in_features, self.out_features = size, num_out
        self.register_buffer("weight", blocks.laid(rounded.view(torch.uint8), "I8"))
        self.register_buffer("scale", scale)
        self.register_buffer("bias", None if bias is None else bias.detach().clone())

    def dequantised(self, dtype: torch.dtype) -> Tensor:
        """W (N, K)."""
        return (blocks.weights(self.weight, "I8")[:, : self.in_features] * self.scale[:, None]).to(dtype)

    def forward(self, states: Tensor) -> Tensor:
        if 0 < states.numel() <= MOST_ROWS * self.in_features:
            if missing := self.weight.shape[1] - self.in_features:
                states = nn.functional.pad(states, (0, missing))
            bias = None if self.bias is None else self.bias.float()
            return blocks.product(states, self.weight, "I8", bias, self.scale)
        return nn.functional.linear(states, self.dequantised(states.dtype), self.bias)


def check_states(model: PreTrainedModel, weights: str) -> None:
    """Refuse what whole-number weights can't be multiplied with.

    Raises:
        UnsupportedError: the model is not on the CPU in float32 or bfloat16, or the machine has no C compiler to make
            the kernel with.
    """
    if model.device.type != "cpu" or model.dtype not in few_rows.MOST_ROWS:
        raise UnsupportedError(
            f"{weights} weights are for the CPU with float32 or bfloat16 states, and the model is on {model.device} in "
            f"{str(model.dtype).removeprefix('torch.')}; load it with device='cpu' and dtype='bfloat16'"
        )
    if not few_rows.is_available() or not blocks.is_available():
        raise UnsupportedError(f"{weights} weights need a C compiler (cc, or what CC names) on Linux; install gcc")


def to_int8(model: PreTrainedModel) -> None:
    """Round the weights of all linear layers, the head's too, in place. Embeddings stay as they are, also where the
    head shared theirs.

    Raises:
        UnsupportedError: the model is not on the CPU in float32 or bfloat16, it has no such layers, or the machine has
            no C compiler to make the kernel with.
    """
    check_states(model, "int8")
    if getattr(model, "peft_config", None):
        raise UnsupportedError(f"{type(model).__name__} has adapters, which can't be added to int8 weights; merge them")
    layers = [(name, module) for name, module in model.named_modules() if type(module) in (nn.Linear, Conv1D)]
    if not layers and not any(isinstance(module, (BlockLinear, Int8Linear)) for module in model.modules()):
        raise UnsupportedError(f"{type(model).__name__} has no linear layers whose weights can be rounded to int8")
    for name, module in layers:
        weight = module.weight.t() if type(module) is Conv1D else module.weight
        parent, _, own = name.rpartition(".")
        setattr(model.get_submodule(parent), own, Int8Linear(weight, module.bias))
