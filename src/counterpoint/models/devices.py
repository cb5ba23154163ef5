"""Where a model takes its tokens, also where its weights lie elsewhere until they are used."""

from __future__ import annotations

import torch
from transformers import PreTrainedModel

from counterpoint.errors import UnsupportedError


def input_device(model: PreTrainedModel) -> torch.device:
    """The device to put token ids on.

    Raises:
        UnsupportedError: the weights are nowhere: the model was built on the meta device and never loaded.
    """
    if model.device.type != "meta":
        return model.device
    # Offloaded weights are on the meta device between forwards; accelerate's hook knows where they are used.
    hooks = (getattr(module, "_hf_hook", None) for module in model.modules())
    hook = next((hook for hook in hooks if hook is not None), None)
    if hook is None:
        raise UnsupportedError(
            f"the weights of {type(model).__name__} are on the meta device, which holds no numbers; load them with "
            "from_pretrained"
        )
    device = getattr(hook, "execution_device", None)
    return torch.device("cpu" if device is None else device)


def is_on_one_gpu(model: PreTrainedModel) -> bool:
    """Whether all weights lie on one CUDA device, and stay there."""
    devices = {tensor.device for tensor in (*model.parameters(), *model.buffers())}
    offloaded = any(hasattr(module, "_hf_hook") for module in model.modules())
    return len(devices) == 1 and next(iter(devices)).type == "cuda" and not offloaded
