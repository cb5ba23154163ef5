"""Products of a few rows of states with a weight, at the speed at which memory gives the weight.

The kernel is a small C file, compiled for this processor by the machine's own C compiler when it is first wanted
(about a second), kept in the user's cache folder, and checked against torch each time it is loaded. Where there is no
compiler, or anything fails, there is no kernel, and torch's own products are used.
"""

from __future__ import annotations

import ctypes
import functools
import hashlib
import os
import platform
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

SOURCE = Path(__file__).with_name("few_rows.c")
FLAGS = ("-O2", "-march=native", "-fPIC", "-fopenmp")
COMPILE_LIMIT_S = 60
#: products with fewer weights than this are made by one thread
LEAST_SHARED = 65536
#: most rows at which it is faster than torch's products, by the dtype of the states
MOST_ROWS = {torch.float32: 8, torch.bfloat16: 16}
NAMES = {
    (torch.float32, torch.float32): "f32_f32",
    (torch.float32, torch.int8): "f32_i8",
    (torch.bfloat16, torch.bfloat16): "bf16_bf16",
    (torch.bfloat16, torch.int8): "bf16_i8",
}

_ops = torch.library.Library("counterpoint", "FRAGMENT")
_ops.define("few_rows(Tensor states, Tensor weight, Tensor? scale, Tensor? bias) -> Tensor")


@functools.cache
def is_available() -> bool:
    """Whether there is a kernel on this machine. The first call may compile it."""
    try:
        return _is_right()
    except (OSError, subprocess.SubprocessError, AttributeError):
        return False


def few_rows(states: Tensor, weight: Tensor, scale: Tensor | None = None, bias: Tensor | None = None) -> Tensor:
    """`states @ weight.T * scale + bias`, summed in float32. Only where `is_available`.

    Args:
        states: (..., K), float32 or bfloat16, on the CPU.
        weight: (N, K), contiguous, of the states' dtype or int8.
        scale: (N,) float32. bias: (N,), of the states' dtype.
    """
    return torch.ops.counterpoint.few_rows(states, weight, scale, bias)


def _product(states: Tensor, weight: Tensor, scale: Tensor | None, bias: Tensor | None) -> Tensor:
    if not weight.is_contiguous():
        raise ValueError(f"a weight of strides {weight.stride()} is not contiguous; call contiguous() on it")
    states = states.contiguous()
    (num_out, size), out = weight.shape, states.new_empty((*states.shape[:-1], weight.shape[0]))
    failed = _kernels()[states.dtype, weight.dtype](
        states.data_ptr(),
        weight.data_ptr(),
        None if scale is None else scale.data_ptr(),
        None if bias is None else bias.data_ptr(),
        out.data_ptr(),
        out.numel() // max(num_out, 1),
        num_out,
        size,
        torch.get_num_threads() if num_out * size >= LEAST_SHARED else 1,
    )
    if failed:
        raise MemoryError("no memory for a product with int8 weights")
    return out


def _shape(states: Tensor, weight: Tensor, scale: Tensor | None, bias: Tensor | None) -> Tensor:
    return states.new_empty((*states.shape[:-1], weight.shape[0]))


_ops.impl("few_rows", _product, "CPU")
_ops.impl("few_rows", _shape, "Meta")


@functools.cache
def _kernels() -> dict[tuple[torch.dtype, torch.dtype], Callable[..., None]]:
    library = ctypes.CDLL(str(_compiled()))
    kernels = {}
    for dtypes, name in NAMES.items():
        kernel = getattr(library, name)
        kernel.argtypes, kernel.restype = [ctypes.c_void_p] * 5 + [ctypes.c_int64] * 3 + [ctypes.c_int], ctypes.c_int
        kernels[dtypes] = kernel
    return kernels


def _compiled() -> Path:
    """The kernel as a library, compiled where it is not in the cache yet."""
    compiler = shutil.which(os.environ.get("CC", "cc"))
    if compiler is None or sys.platform != "linux":
        raise FileNotFoundError("no C compiler, or not Linux")
    threads = _thread_library()
    # A home folder may be shared by machines whose processors differ.
    key = (SOURCE.read_text(), *FLAGS, compiler, threads, platform.machine(), _features())
    name = f"few_rows-{hashlib.sha256(repr(key).encode()).hexdigest()[:16]}.so"
    folder = _cache_folder()
    if not (folder / name).exists():
        with tempfile.TemporaryDirectory(dir=folder) as own:
            code, made = Path(own) / "few_rows.o", Path(own) / name
            _call(compiler, *FLAGS, "-c", str(SOURCE), "-o", str(code))
            _call(compiler, "-shared", str(code), threads, "-o", str(made))
            made.replace(folder / name)
    return folder / name


def _call(*command: str) -> None:
    subprocess.run(command, check=True, capture_output=True, timeout=COMPILE_LIMIT_S)


def _thread_library() -> str:
    """The OpenMP library that torch has loaded: with another one there would be two pools of threads."""
    for line in Path("/proc/self/maps").read_text().splitlines():
        path = line.split(maxsplit=5)[-1]
        if Path(path).name.startswith(("libgomp", "libiomp", "libomp")):
            return path
    return "-fopenmp"


def _features() -> str:
    """What the processor can do, as Linux tells it."""
    lines = Path("/proc/cpuinfo").read_text(errors="replace").splitlines()
    return next((line for line in lines if line.startswith(("flags", "Features"))), "")


def _cache_folder() -> Path:
    """A folder that belongs to this user alone: what lies there is run."""
    folder = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "counterpoint"
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    about = folder.stat()
    if about.st_uid != os.getuid() or about.st_mode & 0o022:
        raise PermissionError(f"{folder} can be written by others")
    return folder


def _is_right() -> bool:
    """Whether the kernel gives what torch gives, with sizes that fill no vector."""
    source = torch.Generator().manual_seed(0)
    for dtype, weight_dtype in NAMES:
        for num_rows in (1, 2, 7):
            states = torch.randn(num_rows, 101, generator=source).to(dtype)
            weight = (torch.randn(23, 101, generator=source) * 40).round().to(weight_dtype)
            scale, bias = torch.rand(23, generator=source), torch.randn(23, generator=source).to(dtype)
            want = (states.float() @ weight.float().T) * scale + bias.float()
            got = _product(states, weight, scale, bias).float()
            if not (got - want).abs().max() <= max(2 * torch.finfo(dtype).eps, 1e-5) * want.abs().max():
                return False
    return True
