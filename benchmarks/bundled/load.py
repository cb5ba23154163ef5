"""How long the bundled model takes to load, in a fresh process: imports apart from the load itself. Median of five."""

import json
import statistics
import subprocess
import sys

from common import keep, parser

CODE = """
import json, sys, time
start = time.perf_counter()
import torch, transformers.models.llama.modeling_llama, counterpoint.models.loading as loading
imported = time.perf_counter()
loading.load(sys.argv[1])
print(json.dumps([imported - start, time.perf_counter() - imported]))
"""


def main() -> None:
    args = parser(__doc__).parse_args()
    times = [
        json.loads(
            subprocess.run(
                [sys.executable, "-c", CODE, args.model], capture_output=True, text=True, check=True
            ).stdout.splitlines()[-1]
        )
        for _ in range(5)
    ]
    keep(
        "load",
        args,
        {"import_s": statistics.median(t[0] for t in times), "load_s": statistics.median(t[1] for t in times)},
    )


if __name__ == "__main__":
    main()
