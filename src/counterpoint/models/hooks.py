"""Whether anybody looks into a model's forward."""

from __future__ import annotations

from torch import nn
from torch.utils.hooks import RemovableHandle

KINDS = ("_forward_hooks", "_forward_pre_hooks")


class Hooks:
    """The hooks on the forwards of a model's modules, those to come among them."""

    def __init__(self, model: nn.Module) -> None:
        self._hooks = [getattr(module, kind) for module in model.modules() for kind in KINDS]
        self._last_handle = -1  # the number of the next hook when there was none

    def any(self) -> bool:
        # Each hook that is registered takes a number of torch's; the modules are asked where one was taken.
        if RemovableHandle.next_id != self._last_handle:
            if any(self._hooks):
                return True
            self._last_handle = RemovableHandle.next_id
        return False
