"""The masks of many states: computed together, while something else runs, and unpacked."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import numpy as np

from counterpoint.constraints.state import FormState, State
from counterpoint.errors import ConstraintError

if TYPE_CHECKING:
    from llguidance import LLExecutor
    from torch import Tensor


def begin(states: Sequence[State]) -> None:
    """Start computing the masks of states that will be asked for them; returns at once.

    llguidance computes them outside of Python's lock, so that a forward can run meanwhile."""
    forms = [form for form in map(_form, states) if form is not None and not form.is_over]
    missing = [form for form in forms if form._bits is None and form._pending is None]
    for vocabulary in {id(state.vocabulary): state.vocabulary for state in missing}.values():
        own = [state for state in missing if state.vocabulary is vocabulary]
        future = _background().submit(_fill, own, vocabulary.num_bytes)
        for state in own:
            state._pending = future


def unpacked(states: Sequence[State], size: int, like: Tensor) -> Tensor:
    """The tokens that each state allows, on the device of `like`. -> (B, size) of bool.

    Args:
        size: number of tokens in the model's predictions; those that the vocabulary does not know are not allowed.

    Raises:
        ConstraintError: see `State.allowed`.
    """
    import torch

    packed = np.stack([state.allowed() for state in states])
    if like.device.type == "cpu":
        bits = torch.from_numpy(np.unpackbits(packed, axis=1, bitorder="little")).view(torch.bool)
    else:  # a 32nd of the bytes go to the device
        words = torch.from_numpy(packed).to(like.device)
        places = torch.arange(8, dtype=torch.uint8, device=like.device)
        bits = ((words.unsqueeze(-1) >> places) & 1).bool().flatten(1)
    known = min(size, states[0].vocabulary.size)
    if known == size:
        return bits[:, :size]
    return torch.nn.functional.pad(bits[:, :known], (0, size - known))


def _form(state: State) -> FormState | None:
    try:
        return state.form
    except ConstraintError:  # told to whoever asks for that state's mask
        return None


def _fill(states: list[FormState], num_bytes: int) -> None:
    packed: np.ndarray = np.empty((len(states), num_bytes), dtype=np.uint8)
    if len(states) == 1:  # no other thread need be woken
        states[0]._matcher.unsafe_compute_mask_ptr(packed.ctypes.data, num_bytes)
    else:
        todo = [(state._matcher, at) for at, state in enumerate(states)]
        _executor().unsafe_compute_mask_ptr(todo, packed.ctypes.data, num_bytes, len(states))
    for state, bits in zip(states, packed):
        try:
            state.take(bits)
        except ConstraintError:  # told to whoever asks for that state's mask
            state._bits = None


@functools.cache
def _executor() -> LLExecutor:
    from llguidance import LLExecutor

    return LLExecutor()


@functools.cache
def _background() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(max_workers=1, thread_name_prefix="counterpoint-masks")
