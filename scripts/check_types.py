"""Check types with mypy, at a level that only rises: a room may not have more errors than it is allowed.

    python scripts/check_types.py [--lower]

The allowance of each room stands in scripts/check_types.json. Where a room has fewer by now, the check says so, and --lower
writes the new, lower numbers, so that what was won is kept.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections import Counter
from pathlib import Path

ROOT = Path(__file__).parent.parent
ALLOWED = Path(__file__).with_suffix(".json")
LINE = re.compile(r"src/counterpoint/([a-z_]+)[^:]*:\d+: error: ")


def main() -> int:
    command = [sys.executable, "-m", "mypy", "--no-error-summary", "--hide-error-context", "src/counterpoint"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
    if done.returncode not in (0, 1):
        print(done.stdout + done.stderr, file=sys.stderr)
        return 1
    found = Counter(match[1] for line in done.stdout.splitlines() if (match := LINE.match(line)))
    allowed: dict[str, int] = json.loads(ALLOWED.read_text()) if ALLOWED.exists() else {}
    worse = {room: count for room, count in found.items() if count > allowed.get(room, 0)}
    better = {room: count for room, count in allowed.items() if found[room] < count}
    if "--lower" in sys.argv:
        lowered = {room: count for room, count in sorted(found.items()) if not allowed or count <= allowed.get(room, 0)}
        kept = {room: allowed[room] for room in worse if room in allowed}
        ALLOWED.write_text(json.dumps(dict(sorted({**lowered, **kept}.items())), indent=1) + "\n")
        return 0
    for room in worse:
        print(f"types: {room} has {found[room]} errors and may have {allowed.get(room, 0)}:", file=sys.stderr)
        print(
            "\n".join(line for line in done.stdout.splitlines() if f"src/counterpoint/{room}" in line), file=sys.stderr
        )
    for room, count in better.items():
        print(
            f"types: {room} has {found[room]} errors, fewer than the {count} that it may have: run scripts/check_types.py --lower",
            file=sys.stderr,
        )
    return 1 if worse else 0


if __name__ == "__main__":
    sys.exit(main())
