"""Linear layers with weights in 8 bits: a quarter of float32's memory, and as much less to read at each step."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from counterpoint.errors import UnsupportedError
from counterpoint.models.kernels import few_rows

MOST_ROWS = 64  # more than these are multiplied by the weights in the states' dtype, made for the moment


class Int8Linear(nn.Module):
    """y = x W^T + b with W[n, k] = scale[n] * q[n, k], q whole numbers from -127 to 127.

    Args:
        weight: (N, K). Each row is rounded to the nearest q, with scale[n] = max_k |W[n, k]| / 127.
        bias: (N,), or None.
    """

    def __init__(self, weight: Tensor, bias: Tensor | None) -> None:
        super().__init__()
        wide = weight.detach().float().contiguous()  # as the kernel reads it
        scale = wide.abs().amax(1) / 127
        scale[scale == 0] = 1
        self.register_buffer("weight", (wide / scale[:, None]).round().to(torch.int8))
        self.register_buffer("scale", scale)
        self.register_buffer("bias", None if bias is None else bias.detach().clone())

    def dequantised(self, dtype: torch.dtype) -> Tensor:
        """W (N, K)."""
        return (self.weight * self.scale[:, None]).to(dtype)

    def forward(self, states: Tensor) -> Tensor:
        if 0 < states.numel() <= MOST_ROWS * states.shape[-1]:
            return few_rows.few_rows(states, self.weight, self.scale, self.bias)
        return nn.functional.linear(states, self.dequantised(states.dtype), self.bias)


def to_int8(model: PreTrainedModel) -> None:
    """Round the weights of all linear layers, the head's too, in place. Embeddings stay as they are, also where the
    head shared theirs.

    Raises:
        UnsupportedError: the model is not on the CPU in float32 or bfloat16, it has no such layers, or the machine has
            no C compiler to make the kernel with.
    """
    if model.device.type != "cpu" or model.dtype not in few_rows.MOST_ROWS:
        raise UnsupportedError(
            f"int8 weights are for the CPU with float32 or bfloat16 states, and the model is on {model.device} in "
            f"{str(model.dtype).removeprefix('torch.')}; load it with device='cpu' and dtype='bfloat16'"
        )
    if getattr(model, "peft_config", None):
        raise UnsupportedError(f"{type(model).__name__} has adapters, which can't be added to int8 weights; merge them")
    if not few_rows.is_available():
        raise UnsupportedError("int8 weights need a C compiler (cc, or what CC names) on Linux; install gcc")
    layers = [(name, module) for name, module in model.named_modules() if type(module) in (nn.Linear, Conv1D)]
    if not layers:
        raise UnsupportedError(f"{type(model).__name__} has no linear layers whose weights can be rounded to int8")
    for name, module in layers:
        weight = module.weight.t() if type(module) is Conv1D else module.weight
        parent, _, own = name.rpartition(".")
        setattr(model.get_submodule(parent), own, Int8Linear(weight, module.bias))
