"""Load every file of examples/azure by azure-ai-ml, and see that it refuses each with a field that is none. Run by scripts/azure."""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

import azure.ai.ml as ml
import yaml

FOLDER = Path(__file__).parent.parent / "examples" / "azure"
LOADERS = {
    "environment.yml": ml.load_environment,
    "model.yml": ml.load_model,
    "online-endpoint.yml": ml.load_online_endpoint,
    "online-deployment.yml": ml.load_online_deployment,
    "batch-endpoint.yml": ml.load_batch_endpoint,
    "batch-deployment.yml": ml.load_batch_deployment,
}


def main() -> int:
    wrong = []
    if {path.name for path in FOLDER.glob("*.yml")} != LOADERS.keys():
        wrong.append("a file has no loader, or a loader no file")
    for name, load in LOADERS.items():
        loaded = load(FOLDER / name)
        print(f"{name}: {type(loaded).__name__} {loaded.name}")
        with tempfile.TemporaryDirectory() as folder:
            broken = Path(folder) / name
            fields = yaml.safe_load((FOLDER / name).read_text())
            broken.write_text(yaml.safe_dump({**fields, "no_such_field": 1}))
            try:
                load(broken)
            except Exception:
                continue
            wrong.append(f"{name}: a field that is none is let through, so its schema says little")
    for line in wrong:
        print(f"FAILED: {line}")
    return bool(wrong)


if __name__ == "__main__":
    sys.exit(main())
