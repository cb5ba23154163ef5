"""The C files of this folder as one library, compiled for this processor by the machine's own C compiler.

It is compiled when it is first wanted (about two seconds) and kept in the user's cache folder.
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
import warnings
from collections.abc import Callable
from pathlib import Path

import torch

from counterpoint.errors import CompileWarning

FOLDER = Path(__file__).parent
SOURCES = ("products.c", "blocks.c", "few_queries.c", "step.c", "choice.c")
FLAGS = ("-O2", "-march=native", "-fPIC", "-fopenmp")
COMPILE_LIMIT_S = 60
LOST = (
    "torch's own kernels are used: the same tokens, steps of few rows 2 to 4 times as long, and no int8 or int4 weights; "
    "compile=False is silent"
)
#: the namespace of our operators, torch.ops.counterpoint
OPERATORS = torch.library.Library("counterpoint", "FRAGMENT")


def has_compiler() -> bool:
    """Whether this is Linux with a C compiler: `cc`, or what CC names."""
    return sys.platform == "linux" and shutil.which(os.environ.get("CC", "cc")) is not None


def is_traced() -> bool:
    """Whether calls of operators are recorded now, by a compiler or by a dispatch mode."""
    return torch.compiler.is_compiling() or torch._C._len_torch_dispatch_stack() > 0


@functools.cache
def warn_where_missing() -> None:
    """Say once what is lost where no kernel can be built."""
    if sys.platform != "linux":
        reason = f"our kernels are built on Linux, and this is {sys.platform}"
    elif not has_compiler():
        reason = "there is no C compiler (cc, or what CC names); install gcc"
    else:
        return
    warnings.warn(f"{reason}. {LOST}", CompileWarning, stacklevel=3)


@functools.cache
def loaded() -> ctypes.CDLL:
    """The library, compiled where it is not in the cache yet.

    Raises:
        OSError, subprocess.SubprocessError: there is no compiler, or it fails.
    """
    return ctypes.CDLL(str(_compiled()))


def checked(check: Callable[[], bool]) -> Callable[[], bool]:
    """`check` of a kernel, made once; False as well where there is no library, or it lacks the function. Where there is a
    compiler, a warning says so."""

    @functools.cache
    @functools.wraps(check)
    def is_available() -> bool:
        if not has_compiler():  # as `warn_where_missing` says
            return False
        try:
            with torch.device("cpu"):  # whatever the caller's default is
                if check():
                    return True
            _warn(f"{check.__module__.rpartition('.')[2]} gives other results than torch on this processor")
        except subprocess.CalledProcessError as error:
            said = (error.stderr or b"").decode(errors="replace").strip().splitlines()
            _warn(f"the C compiler failed on our kernels ({said[0] if said else f'exit status {error.returncode}'})")
        except (OSError, subprocess.SubprocessError, AttributeError) as error:
            _warn(f"our kernels can't be built or loaded ({error})")
        return False

    return is_available


@functools.cache
def _warn(reason: str) -> None:
    """Say once what is lost."""
    warnings.warn(f"{reason}. {LOST}", CompileWarning, stacklevel=5)


def current() -> Path:
    """Where the library of this version and this machine lies, or will lie."""
    compiler = shutil.which(os.environ.get("CC", "cc"))
    threads = _thread_library()
    # A home folder may be shared by machines whose processors differ.
    texts = [path.read_text() for path in sorted(FOLDER.glob("*.[ch]"))]
    key = (texts, *SOURCES, *FLAGS, compiler, threads, platform.machine(), _features())
    return cache_folder() / f"kernels-{hashlib.sha256(repr(key).encode()).hexdigest()[:16]}.so"


def _compiled() -> Path:
    if not has_compiler():
        raise FileNotFoundError("no C compiler, or not Linux")
    compiler = str(shutil.which(os.environ.get("CC", "cc")))
    threads = _thread_library()
    library = current()
    folder, name = library.parent, library.name
    if not library.exists():
        with tempfile.TemporaryDirectory(dir=folder) as own:
            objects = [str(Path(own) / Path(source).with_suffix(".o")) for source in SOURCES]
            for source, made in zip(SOURCES, objects, strict=True):
                _call(compiler, *FLAGS, "-c", str(FOLDER / source), "-o", made)
            joined = Path(own) / name
            _call(compiler, "-shared", *objects, threads, "-o", str(joined))
            joined.replace(folder / name)
    return library


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


def cache_folder() -> Path:
    """A folder that belongs to this user alone: what lies there is run."""
    folder = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "counterpoint"
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    about = folder.stat()
    if about.st_uid != os.getuid() or about.st_mode & 0o022:
        raise PermissionError(f"{folder} can be written by others")
    return folder
