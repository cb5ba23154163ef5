"""Linear layers of a few rows in float32, where the CPU's own BLAS is slow at them.

On AMD processors MKL reads the weights about once a row for 2 rows and more; oneDNN reads them once for all rows.
The layers keep their weights: only the kernel is another one, and only while rows are read together.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
from torch import Tensor
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

FEWEST, MOST = 2, 64  # rows between which oneDNN wins


class Linears:
    """The float32 linear layers of a model, for `joint`."""

    def __init__(self, model: PreTrainedModel) -> None:
        self._forwards: list[tuple[torch.nn.Module, Callable[[Tensor], Tensor]]] = []
        if is_slow_blas() and model.device.type == "cpu":
            for module in model.modules():
                # Exactly these: a subclass computes something else.
                if type(module) in (torch.nn.Linear, Conv1D) and module.weight.dtype is torch.float32:
                    self._forwards.append((module, functools.partial(_joint, module)))

    @contextlib.contextmanager
    def joint(self, num_rows: int) -> Iterator[None]:
        """While this holds, the layers use the kernel that is quick for `num_rows`."""
        used = self._forwards if FEWEST <= num_rows <= MOST else []
        # Set in the instance's own dictionary, which a call prefers to the class; the module's state is untouched.
        used = [(module, forward) for module, forward in used if "forward" not in module.__dict__]
        for module, forward in used:
            module.__dict__["forward"] = forward
        try:
            yield
        finally:
            for module, _ in used:
                del module.__dict__["forward"]


@functools.cache
def is_slow_blas() -> bool:
    """Whether float32 products go through MKL on a processor that it does not favour, and oneDNN is there."""
    info = Path("/proc/cpuinfo")
    return (
        torch.backends.mkl.is_available()
        and torch.backends.mkldnn.is_available()
        and info.exists()
        and "AuthenticAMD" in info.read_text(errors="replace")
    )


def _joint(module: torch.nn.Module, states: Tensor) -> Tensor:
    if not FEWEST <= states.numel() // states.shape[-1] <= MOST:  # the head reads fewer rows than the other layers
        return type(module).forward(module, states)
    weight = module.weight.t() if type(module) is Conv1D else module.weight
    return torch.ops.mkldnn._linear_pointwise(states, weight, module.bias, "none", [], "")
