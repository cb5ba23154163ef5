"""Tasks that are not the harness' own. LAMBADA from a file of one's own, as the harness defines it."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

from counterpoint.errors import UsageError


def located(task: str | dict[str, Any]) -> str | dict[str, Any]:
    """A task whose data lies where its file says, seen from here or from the file's folder or one above it.

    The harness reads a relative path from the folder that it was started in, so that a task file would work from one
    folder only. A task that is no file, or whose file is more than plain YAML, comes back as it is.
    """
    if not isinstance(task, str) or not Path(task).is_file():
        return task
    import yaml

    try:
        config = yaml.safe_load(Path(task).read_text(encoding="utf-8"))
        data_files = config["dataset_kwargs"]["data_files"]
    except (yaml.YAMLError, KeyError, TypeError, UnicodeDecodeError):
        return task
    found = {split: _found(file, Path(task).resolve().parent) for split, file in dict(data_files).items()}
    if found == data_files:
        return task
    return {**config, "dataset_kwargs": {**config["dataset_kwargs"], "data_files": found}}


def _found(file: Any, folder: Path) -> Any:
    if not isinstance(file, str) or "://" in file or Path(file).exists():
        return file
    return next((str(at / file) for at in (folder, *folder.parents) if (at / file).is_file()), file)


def lambada(
    path: str | Path, *, sample: int | None = None, seed: int = 0, folder: str | Path | None = None
) -> dict[str, Any]:
    """LAMBADA (Paperno et al. 2016) from a JSON Lines file with one `text` a line: its last word is to be predicted.

    Args:
        sample: this many passages drawn with `seed`; None for all. Then `folder` is where the drawn ones are written.

    Raises:
        UsageError: the file can't be read, or it has no line, or a line no text that ends with a second word.
    """
    try:
        lines = (
            Path(path).read_text(encoding="utf-8").removesuffix("\n").split("\n")
        )  # a text may hold other ends of lines
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"the passages {str(path)!r} can't be read: {error}; give a JSON Lines file") from None
    if lines == [""]:
        raise UsageError(f'{path} holds no passage; write one {{"text": "..."}} a line')
    for number, line in enumerate(lines, 1):
        try:
            text = json.loads(line)["text"]
        except (ValueError, KeyError, TypeError):
            text = ""
        if not isinstance(text, str) or len(text.split(" ")) < 2 or not text.split(" ")[-1].strip():
            raise UsageError(f'{path} line {number} has no text that ends with a second word; write {{"text": "..."}}')
    if sample is not None and sample < len(lines):
        if folder is None:
            raise UsageError("a sample needs a folder to be written to; give one")
        path = Path(folder) / f"lambada-{sample}-{seed}.jsonl"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("\n".join(random.Random(seed).sample(lines, sample)) + "\n", encoding="utf-8")
    return {
        "task": "lambada",
        "dataset_path": "json",
        "dataset_kwargs": {"data_files": {"test": str(Path(path).absolute())}},
        "test_split": "test",
        "output_type": "loglikelihood",
        "doc_to_text": "{{text.split(' ')[:-1]|join(' ')}}",
        "doc_to_target": "{{' '+text.split(' ')[-1]}}",
        "metric_list": [{"metric": "perplexity"}, {"metric": "acc"}],
    }
