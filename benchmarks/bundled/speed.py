"""Tokens a second of one training step, by size of the model and threads; the better of three steps after compiling.

python benchmarks/bundled/speed.py --data CORPUS --run RUN --threads 2 --sizes 256x4 320x6
"""

import dataclasses
import time

import torch
from common import keep, parser

from counterpoint.train.config import TrainConfig, read_config
from counterpoint.train.corpus import open_corpus
from counterpoint.train.loop import Run


def sized(config: TrainConfig, width: int, layers: int) -> TrainConfig:
    """The same run with another model: heads of 64, an inner width of 8 / 3 of the outer."""
    inner = round(width * 8 / 3 / 32) * 32
    return dataclasses.replace(
        config, model=dataclasses.replace(config.model, width=width, layers=layers, heads=width // 64, inner=inner)
    )


def main() -> None:
    made = parser(__doc__)
    made.add_argument("--threads", type=int, default=torch.get_num_threads())
    made.add_argument("--sizes", nargs="+", default=["256x4", "320x6"], help="WIDTHxLAYERS")
    args = made.parse_args()
    torch.set_num_threads(args.threads)
    config = read_config(args.config)
    corpus = open_corpus(config, args.data, args.run, say=print)
    rows = []
    for size in args.sizes:
        width, layers = map(int, size.split("x"))
        run = Run(sized(config, width, layers), corpus, "cpu", compiled=True)
        run.advance()
        seconds = []
        for _ in range(3):
            began = time.perf_counter()
            run.advance()
            seconds.append(time.perf_counter() - began)
        rows.append(
            {
                "size": size,
                "parameters": sum(p.numel() for p in run.model.parameters()),
                "tokens_per_s": config.schedule.batch_tokens / min(seconds),
            }
        )
        print(rows[-1], flush=True)
    keep("speed", args, {"threads": args.threads, "sizes": rows})


if __name__ == "__main__":
    main()
