"""The C files against plain loops, by a check in C: here, and on ARM's processors where these can be emulated.

Emulation needs Debian's qemu-user-static, gcc-aarch64-linux-gnu, libc6-dev-arm64-cross and libgomp1-arm64-cross.
"""

import os
import shutil
import subprocess
from pathlib import Path

import pytest
from patience import PATIENCE_S

from counterpoint.models.kernels import build

CHECK = Path(__file__).parent / "kernels_check.c"
NATIVE, CROSS, EMULATOR = os.environ.get("CC", "cc"), "aarch64-linux-gnu-gcc", "qemu-aarch64-static"
FLAGS = [flag for flag in build.FLAGS if not flag.startswith("-march") and flag != "-fPIC"]


def run(folder, compiler, processor, emulator, kernels=build.FOLDER):
    """The check, built for a processor: its exit status and what it says."""
    if not shutil.which(compiler) or (emulator and not shutil.which(emulator[0])):
        pytest.skip(f"no {compiler}, or nothing to run what it makes")
    sources = [str(kernels / name) for name in build.SOURCES if name != "step.c"]
    made = folder / "check"
    command = [compiler, *FLAGS, f"-march={processor}", "-w", f"-I{kernels}", str(CHECK), *sources]
    command += ["-static"] * bool(emulator) + ["-lm", "-o", str(made)]
    subprocess.run(command, check=True, capture_output=True, timeout=PATIENCE_S)
    patient = {**os.environ, "OMP_WAIT_POLICY": "passive"}  # threads that wait leave the processor to others
    done = subprocess.run([*emulator, str(made)], capture_output=True, text=True, timeout=PATIENCE_S, env=patient)
    return done.returncode, done.stdout


def test_this_processor(tmp_path):
    assert run(tmp_path, NATIVE, "native", []) == (0, "")


def test_processors_of_arm(tmp_path):
    assert run(tmp_path, CROSS, "armv8-a", [EMULATOR]) == (0, "")


def test_the_check_notices_what_is_wrong(tmp_path):
    broken = tmp_path / "broken"
    shutil.copytree(build.FOLDER, broken)
    text = (broken / "vectors.h").read_text()
    assert "1.6666665459e-1f" in text  # of e^x
    (broken / "vectors.h").write_text(text.replace("1.6666665459e-1f", "1.66e-1f"))
    status, said = run(tmp_path, NATIVE, "native", [], broken)
    assert status == 1 and said
