"""What the measurements of the bundled model share: their arguments, the held-out text, how results are kept."""

import argparse
import json
import math
import platform
from pathlib import Path

import numpy as np
import torch
import transformers

import counterpoint as cp
from counterpoint.train.config import TrainConfig, read_config
from counterpoint.train.corpus import Corpus, open_corpus

ROOT = Path(__file__).resolve().parents[2]
RESULTS = ROOT / "benchmarks" / "results" / "bundled"
GENRES = ("mystery", "children's", "science fiction", "horror", "philosophy")
SENTIMENTS = ("positive", "negative")


def parser(description: str) -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(description=description)
    made.add_argument("--data", type=Path, required=True, help="the folder of *.jsonl.xz that the model was trained on")
    made.add_argument(
        "--run", type=Path, required=True, help="a folder for the tokenised corpus; the training's own --out saves time"
    )
    made.add_argument("--config", type=Path, default=ROOT / "configs" / "bundled.toml")
    made.add_argument("--model", default="bundled")
    made.add_argument("--seed", type=int, default=0)
    return made


def opened(args: argparse.Namespace) -> tuple[TrainConfig, Corpus, cp.Model]:
    """The config, the corpus and the model, which has to have the corpus' tokenizer."""
    config = read_config(args.config)
    args.run.mkdir(parents=True, exist_ok=True)
    corpus = open_corpus(config, args.data, args.run, say=print)
    model = cp.load(args.model, dtype="float32")
    if model.tokenizer.get_vocab() != corpus.tokenizer.get_vocab():
        raise SystemExit("the model's tokenizer is not the one that this config and data give")
    return config, corpus, model


def held_out(config: TrainConfig, corpus: Corpus, *files: str) -> list[int]:
    """The held-out records of these files, in order."""
    wanted = [i for i, source in enumerate(config.source) if source.file in files]
    return [int(i) for i in np.flatnonzero(np.isin(corpus.source, wanted) & corpus.held)]


def genre_of(conditions: dict) -> str | None:
    """The one genre of GENRES that a record has, or None where it has several or none."""
    named = [v.lower() for v in conditions.get("genre", ()) if v.lower() in GENRES]
    return named[0] if len(named) == 1 else None


def keep(name: str, args: argparse.Namespace, result: dict) -> None:
    """Write one measurement to benchmarks/results/bundled/NAME.json, with what it was made by."""
    made_by = {
        "command": f"python benchmarks/bundled/{name}.py --data CORPUS --run RUN --seed {args.seed}",
        "python": platform.python_version(),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "machine": f"{_processor()}, {torch.get_num_threads()} threads",
    }
    RESULTS.mkdir(parents=True, exist_ok=True)
    text = json.dumps({"made_by": made_by} | result, indent=1, ensure_ascii=False) + "\n"
    (RESULTS / f"{name}.json").write_text(text, encoding="utf-8")
    print(text)


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), platform.machine())


def wilson(right: int, total: int) -> tuple[float, float]:
    """The 95 percent interval of a share (Wilson 1927)."""
    z, share = 1.959964, right / total
    middle = (share + z * z / (2 * total)) / (1 + z * z / total)
    half = z / (1 + z * z / total) * math.sqrt(share * (1 - share) / total + z * z / (4 * total * total))
    return float(middle - half), float(middle + half)
