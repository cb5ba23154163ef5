"""What a number was measured on: the machine, the versions, and how fast its memory is read."""

from __future__ import annotations

import os
import platform
import time
from collections.abc import Callable
from pathlib import Path

import torch
import transformers

from counterpoint.models.model import Model

BUFFER_BYTES = {"cpu": 256 * 2**20, "cuda": 4 * 2**30}  # far above any cache


def describe_machine(device: torch.device | str = "cpu") -> dict[str, str]:
    """Processor, cores, system and versions, and the GPU where the device is one."""
    device = torch.device(device)
    on_gpu = device.type == "cuda"
    return {
        **({"GPU": torch.cuda.get_device_name(device), "CUDA": str(torch.version.cuda)} if on_gpu else {}),
        "processor": _processor(),
        "threads": str(torch.get_num_threads()),
        "capability": torch.backends.cpu.get_cpu_capability(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
    }


def read_bandwidth(device: torch.device | str = "cpu", *, repeats: int = 10) -> float:
    """Bytes a second at which the device's memory is read: the best of several sums over a large buffer."""
    num_bytes = BUFFER_BYTES[torch.device(device).type]
    buffer = torch.ones(num_bytes // 4, device=device)
    buffer.sum()
    best = min(timed(lambda: buffer.sum().item()) for _ in range(repeats))  # the number is waited for
    return num_bytes / best


def step_bytes(model: Model) -> int:
    """Bytes of weights that one decoding step must read: all of them but the tables of which it reads a row."""
    head = model.hf.get_output_embeddings().weight
    tables = [m.weight for m in model.hf.modules() if isinstance(m, torch.nn.Embedding) and m.weight is not head]
    rows_only = {id(table) for table in tables}
    weights = [*model.hf.parameters(), *model.hf.buffers()]  # those in 8 bits are buffers
    return sum(w.numel() * w.element_size() for w in weights if id(w) not in rows_only)


def peak_rss_bytes() -> int | None:
    """The most memory this process held since `reset_peak_rss`; None where the system does not tell."""
    status = Path("/proc/self/status")
    if not status.exists():
        return None
    line = next(text for text in status.read_text().splitlines() if text.startswith("VmHWM"))
    return int(line.split()[1]) * 1024


def reset_peak_rss() -> None:
    """Start `peak_rss_bytes` anew, where the system allows it."""
    refs = Path("/proc/self/clear_refs")
    if refs.exists():
        refs.write_text("5")


def _processor() -> str:
    info = Path("/proc/cpuinfo")
    names = (
        [line.split(":")[1].strip() for line in info.read_text().splitlines() if line.startswith("model name")]
        if (info.exists())
        else []
    )
    return f"{names[0]}, {os.cpu_count()} cores" if names else platform.processor() or platform.machine()


def timed(call: Callable[[], object]) -> float:
    """Seconds of a call."""
    start = time.perf_counter()
    call()
    return time.perf_counter() - start
