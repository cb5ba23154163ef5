"""Linear layers on the CPU, where torch's own products read the weights of few rows at half of the memory's speed.

For up to a few dozen rows there is a kernel of ours (`few_rows`). For more of them in float32 on AMD processors, torch
calls MKL, which reads the weights of few rows about once a row and is slower than oneDNN at any number. The layers keep
their weights: only the kernel is another one, and only while rows are read together.
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

from counterpoint.models.kernels import few_rows

FEWEST_JOINT = 2  # rows from which oneDNN wins
#: oneDNN keeps close to a megabyte of code for each number of rows and weight, so it is given few different ones:
#: multiples of MANY up to MOST, and of FEW below MANY
FEW, MANY, MOST = 4, 64, 512


class Linears:
    """The linear layers of a model, for `joint`.

    Args:
        compiled: use the kernel that the machine's C compiler makes.
        keeps_layout: leave the weights of `Conv1D` layers as they lie in memory. The kernel then does without them;
            else they are turned once to what `Linear` has, (output, input).
    """

    def __init__(self, model: PreTrainedModel, *, compiled: bool = False, keeps_layout: bool = False) -> None:
        self._forwards: list[tuple[torch.nn.Module, Callable[[Tensor], Tensor]]] = []
        self._most_compiled, self._is_all = 0, False
        if model.device.type != "cpu":
            return
        # Exactly these: a subclass computes something else.
        modules = list(model.modules())
        layers = [module for module in modules if type(module) in (torch.nn.Linear, Conv1D)]
        layers = [module for module in layers if module.weight.dtype in few_rows.MOST_ROWS]
        known = {id(module) for module in layers}
        self._is_all = all(
            id(module) in known or isinstance(module, torch.nn.Embedding) or not _has_matrices(module)
            for module in modules
        )
        compiled = compiled and bool(layers) and few_rows.is_available()
        slow_blas = is_slow_blas()
        self._most_compiled = min(few_rows.MOST_ROWS[m.weight.dtype] for m in layers) if compiled else 0
        for module in layers:
            if compiled and type(module) is Conv1D and not keeps_layout:
                _transpose_in_memory(module)
            if compiled or (slow_blas and module.weight.dtype is torch.float32):
                self._forwards.append((module, functools.partial(_joint, module, compiled, slow_blas)))

    @property
    def most_compiled(self) -> int:
        """Most rows that every layer gives to the compiled kernel; 0 where there is none, or layers of other kinds."""
        return self._most_compiled if self._is_all else 0

    @property
    def most_alike(self) -> int:
        """Most rows that every layer multiplies each in one order, whatever stands beside it; 0 where there is no telling."""
        return min(few_rows.MOST_ALIKE, self.most_compiled)

    def suits(self, num_rows: int) -> bool:
        """Whether the compiled kernel is the quickest for `num_rows`."""
        return num_rows <= self._most_compiled

    @contextlib.contextmanager
    def joint(self) -> Iterator[None]:
        """While this holds, each layer uses the kernel that is quick for the rows it is given."""
        # Set in the instance's own dictionary, which a call prefers to the class; the module's state is untouched.
        used = [(module, forward) for module, forward in self._forwards if "forward" not in module.__dict__]
        for module, forward in used:
            module.__dict__["forward"] = forward
        try:
            yield
        finally:
            for module, _ in used:
                del module.__dict__["forward"]


def _has_matrices(module: torch.nn.Module) -> bool:
    """Whether a module holds something to multiply with itself, and not in a layer inside of it."""
    own = (*module._parameters.values(), *module._buffers.values())  # the methods that give them take as long as a step
    return any(tensor is not None and tensor.ndim > 1 for tensor in own)


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


def _transpose_in_memory(layer: Conv1D) -> None:
    # In the mode that the weight was made in, so that one which can be trained stays so.
    with torch.inference_mode(layer.weight.is_inference()), torch.no_grad():
        if not layer.weight.t().is_contiguous():
            layer.weight.data = layer.weight.data.t().contiguous().t()


def _joint(module: torch.nn.Module, compiled: bool, slow_blas: bool, states: Tensor) -> Tensor:
    num_rows = states.numel() // states.shape[-1]  # the head reads fewer rows than the other layers
    weight = module.weight.t() if type(module) is Conv1D else module.weight
    if states.dtype is not weight.dtype:
        return type(module).forward(module, states)
    if compiled and num_rows <= few_rows.MOST_ROWS[states.dtype] and weight.is_contiguous():
        return few_rows.few_rows(states, weight, module.bias)
    if states.dtype is torch.float32 and FEWEST_JOINT <= num_rows and slow_blas:
        return _by_onednn(states, weight, module.bias)
    return type(module).forward(module, states)


def _by_onednn(states: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    rows = states.reshape(-1, states.shape[-1])
    whole = len(rows) // MANY * MANY
    parts = list(rows[:whole].split(MOST)) if whole else []
    if rest := len(rows) - whole:
        parts.append(torch.nn.functional.pad(rows[whole:], (0, 0, 0, -rest % FEW if rest > FEW else 0)))
    made = [torch.ops.mkldnn._linear_pointwise(part, weight, bias, "none", [], "") for part in parts]
    joined = made[0] if len(made) == 1 else torch.cat(made)
    return joined[: len(rows)].view(*states.shape[:-1], -1)
