"""A plugin: models and tensors of the tests are made on a GPU. See scripts/test-gpu."""

import torch
from torch.overrides import TorchFunctionMode

DRAWS = {torch.randn, torch.rand, torch.randint, torch.randperm}


class CpuDraws(TorchFunctionMode):
    """What is drawn by a generator of the CPU is drawn there, so that it is the same, and moved."""

    def __torch_function__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        source = kwargs.get("generator")
        if func in DRAWS and source is not None and source.device.type == "cpu" and "device" not in kwargs:
            return func(*args, **kwargs, device="cpu").to("cuda")
        return func(*args, **kwargs)


if not torch.cuda.is_available():
    raise SystemExit("there is no GPU that torch sees")
torch.set_default_device("cuda")
CpuDraws().__enter__()
