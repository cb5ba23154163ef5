"""Runs the examples of README.md and of some pages of docs and writes their real output beneath them; with --check, only
compares.

An example is a `python` or `console` block followed by a `text` block. In a console block every line that begins with
`$ ` is run.
"""

from __future__ import annotations

import argparse
import difflib
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PAGES = ("README.md", "docs/contexts.md")
EXAMPLE = re.compile(r"```(python|console)\n(.*?)```\n\n```text\n(.*?)```", re.DOTALL)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="fail where a page differs, and change nothing")
    options = parser.parse_args()
    return max(_renew(page, check=options.check) for page in PAGES)


def _renew(page: str, *, check: bool) -> int:
    path = ROOT / page
    old = path.read_text()
    new = EXAMPLE.sub(_with_output, old)
    if new == old:
        return 0
    if check:
        sys.stdout.writelines(difflib.unified_diff(old.splitlines(True), new.splitlines(True), page, "as run"))
        print(f"{page} is stale; run scripts/readme.py")
        return 1
    path.with_suffix(".tmp").write_text(new)
    os.replace(path.with_suffix(".tmp"), path)
    return 0


def _with_output(match: re.Match[str]) -> str:
    language, code, _ = match.groups()
    if language == "python":
        output = _run([sys.executable, "-c", code])
    else:
        commands = [line[2:] for line in code.splitlines() if line.startswith("$ ")]
        output = "".join(_run(["bash", "-c", command]) for command in commands)
    return f"```{language}\n{code}```\n\n```text\n{output.rstrip()}\n```"


def _run(command: list[str]) -> str:
    scripts = str(Path(sys.executable).parent)
    environment = os.environ | {
        "PATH": f"{scripts}{os.pathsep}{os.environ['PATH']}",
        "COLUMNS": "110",
        "HF_HUB_DISABLE_PROGRESS_BARS": "1",
        "TRANSFORMERS_VERBOSITY": "error",
    }
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"an example failed ({shutil.which(command[0])}): {done.stderr.strip()[-2000:]}")
    return done.stdout


if __name__ == "__main__":
    sys.exit(main())
