"""Answers of examples/ray_batch.py against those of `counterpoint batch`, with a worker killed on the way. Run by scripts/ray."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import psutil

TOP = Path(__file__).parent.parent
ASKED = ["--model", "bundled", "--negative", "A list of", "--scale", "2", "--max-tokens", "24", "--temperature", "0.8"]


def answers(path: Path) -> dict[int, tuple]:
    """Texts and tokens by line. What was shared with other rows depends on what ran beside."""
    found = [json.loads(line) for line in path.read_text().splitlines()]
    by_line = {
        one["line"]: [(c["text"], c["token_ids"], c["finish_reason"]) for c in one["completions"]] for one in found
    }
    assert len(by_line) == len(found), "a line is answered twice"
    return by_line


def kill_a_worker(driver: int) -> int:
    """Kill the busiest of Ray's actors, and tell its process."""
    workers = [
        child
        for child in psutil.Process(driver).children(recursive=True)
        if child.name().startswith("ray::")
        and "MapWorker" in child.name()
        or "ray::MapWorker" in " ".join(child.cmdline())
    ]
    assert len(workers) >= 2, f"{len(workers)} workers"
    busiest = max(workers, key=lambda one: one.cpu_times().user)
    busiest.kill()
    return busiest.pid


def main(num_lines: int) -> int:
    folder = Path(tempfile.mkdtemp())
    source = folder / "in.jsonl"
    source.write_text("".join(json.dumps({"prompt": f"Chapter {k}. In the"}) + "\n" for k in range(num_lines)))
    own, plain, killed = (folder / f"{name}.jsonl" for name in ("own", "plain", "killed"))
    subprocess.run(
        [sys.executable, "-m", "counterpoint", "batch", str(source), str(own), "--quiet", *ASKED], check=True
    )
    want = answers(own)
    example = [sys.executable, str(TOP / "examples" / "ray_batch.py"), str(source)]
    subprocess.run([*example, str(plain), *ASKED, "--workers", "2"], check=True)
    print(f"{num_lines} lines, 2 workers: {'equal' if answers(plain) == want else 'DIFFERENT'}", flush=True)
    process = subprocess.Popen([*example, str(killed), *ASKED, "--workers", "2"])
    while not killed.exists() or killed.read_bytes().count(b"\n") < num_lines // 4:
        assert process.poll() is None, "it ended before a worker could be killed"
        time.sleep(0.05)
    at, pid = killed.read_bytes().count(b"\n"), kill_a_worker(process.pid)
    status = process.wait()
    print(
        f"a worker ({pid}) killed after {at} lines: exit {status}, {'equal' if answers(killed) == want else 'DIFFERENT'}"
    )
    return int(status != 0 or answers(plain) != want or answers(killed) != want)


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1])))
