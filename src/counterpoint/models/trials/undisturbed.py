"""Trials see the model alone: nothing that the caller has switched on around them, which may be off at the next call."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch
from torch import nn


@contextlib.contextmanager
def undisturbed(model: nn.Module | None = None) -> Iterator[None]:
    """While this holds there are no gradients, no autocast and no default device, and the model is in evaluation mode."""
    training = [] if model is None else [module for module in model.modules() if module.training]
    for module in training:
        module.training = False
    kinds = {"cpu", *([] if model is None else [next(model.parameters()).device.type])} - {"meta"}
    try:
        with contextlib.ExitStack() as stack:
            stack.enter_context(torch.no_grad())
            stack.enter_context(torch.device("cpu"))
            for kind in kinds:
                stack.enter_context(torch.autocast(kind, enabled=False))
            yield
    finally:
        for module in training:
            module.training = True
