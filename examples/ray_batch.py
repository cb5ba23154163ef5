"""A job on many workers with Ray Data: vLLM's processor where there are GPUs, and without them a pool of our own engines.

    python examples/ray_batch.py prompts.jsonl answers.jsonl --model bundled --workers 2 --scale 2 --negative "A list of"
    python examples/ray_batch.py prompts.jsonl answers.jsonl --engine vllm --model Qwen/Qwen3-8B --workers 8

Lines and answers are those of `counterpoint batch`, and so is what happens around them: answers are appended as they come, and
the same command goes on after a kill. A worker that dies is started again by Ray, and what it was at is run again.
`scripts/ray` makes an environment and compares the answers with those of `counterpoint batch`.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import ray
import ray.data

import counterpoint as cp
from counterpoint.batch.files import open_lines
from counterpoint.batch.forms import Lines
from counterpoint.batch.job import Result, Task, run_job
from counterpoint.batch.journal import Journal
from counterpoint.batch.lines import read_line
from counterpoint.errors import Failure, UsageError

CHUNK = 20_000  # lines that Ray is given at once, so that the driver's memory stays flat


class OwnWorker:
    """One of a pool of actors: a model and an engine, which answer a batch of lines together."""

    def __init__(
        self, model: str, options: Mapping[str, Any], guide: str | None, negative: str | None, seed: int
    ) -> None:
        from counterpoint.batch.own import Defaults, OwnEngine
        from counterpoint.engine import Engine

        defaults = Defaults(options, None if guide is None else cp.Guide.parse(guide), negative, seed)
        self._engine = OwnEngine(Engine(cp.load(model)), defaults)

    def __call__(self, batch: dict[str, Any]) -> dict[str, list[Any]]:
        lines = [read_line(str(text).encode(), int(number)) for number, text in zip(batch["number"], batch["text"])]
        told = {line.number: {"number": line.number, "answer": "", "error": ""} for line in lines}
        for result in self._engine(iter([Task(line.number, "", line) for line in lines])):
            kind = "answer" if result.error is None else "error"
            told[result.task.number][kind] = json.dumps(result.answer) if result.error is None else str(result.error)
        return {name: [one[name] for one in told.values()] for name in ("number", "answer", "error")}


def on_ray(tasks: Iterator[Task], read: Any, run: Any) -> Iterable[Result]:
    """A runner of `counterpoint.batch.job`: tasks as rows of a dataset, and its rows as results, in any order.

    Args:
        read: a task as a row, with its `number`.
        run: a dataset of such rows to one of answers, with `number`, `answer` (JSON) and `error`.
    """
    while chunk := {task.number: task for _, task in zip(range(CHUNK), tasks)}:
        for row in run(ray.data.from_items([read(task) for task in chunk.values()])).iter_rows():
            task = chunk.pop(int(row["number"]))
            if row["error"]:
                yield Result(task, error=UsageError(row["error"]))
            else:
                yield Result(task, answer=json.loads(row["answer"]))
        if chunk:
            raise Failure(f"Ray lost {len(chunk)} lines; the same command runs them")


def own_engines(args: argparse.Namespace, options: Mapping[str, Any]) -> Any:
    """A pool of our own engines, one a worker."""
    guide = None if args.scale is None else f"scale={args.scale}"

    def run(dataset: Any) -> Any:
        return dataset.map_batches(
            OwnWorker,
            fn_constructor_args=(args.model, options, guide, args.negative, args.seed),
            batch_size=args.batch_size,
            num_cpus=args.cpus,
            compute=ray.data.ActorPoolStrategy(size=args.workers),
        )

    return lambda tasks: on_ray(tasks, lambda task: {"number": task.number, "text": text_of(task)}, run)


def vllm_engines(args: argparse.Namespace, options: Mapping[str, Any]) -> Any:
    """vLLM's processor of Ray Data, with guidance in its engines."""
    from ray.data.llm import build_processor, vLLMEngineProcessorConfig

    from counterpoint.vllm.params import engine_args, extra_args

    config = vLLMEngineProcessorConfig(
        model_source=args.model, engine_kwargs=engine_args(), batch_size=args.batch_size, concurrency=args.workers,
        chat_template_stage=False,
    )  # fmt: skip

    def read(task: Task) -> dict[str, Any]:
        line = task.asked
        if line.branches is not None:
            raise UsageError(f"line {line.number} has branches; give a negative, or use --engine own")
        guide = line.guide or (None if args.scale is None else cp.Guide(scale=args.scale))
        negative = args.negative if line.negative is None else line.negative
        params = {"seed": args.seed + line.number, **options, **dict(line.options or {})}
        if guide is not None or negative is not None:
            params["extra_args"] = extra_args(guide or cp.Guide(), negative)
        return {"number": line.number, "prompt": line.prompt, "sampling_params": params}

    def shown(row: dict[str, Any]) -> dict[str, Any]:
        answer = {"text": row["generated_text"], "token_ids": [int(i) for i in row["generated_tokens"]]}
        return {"number": row["number"], "answer": json.dumps([answer]), "error": ""}

    processor = build_processor(config, preprocess=lambda row: row, postprocess=shown)
    return lambda tasks: on_ray(tasks, read, processor)


def text_of(task: Task) -> str:
    """The line again, as JSON."""
    line = task.asked
    fields = {"prompt": line.prompt, "negative": line.negative, "branches": line.branches, **dict(line.options or {})}
    fields["guide"] = None if line.guide is None else line.guide.to_dict()
    return json.dumps({"prompt": line.prompt} | {name: value for name, value in fields.items() if value is not None})


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source")
    parser.add_argument("output")
    parser.add_argument("--engine", choices=("own", "vllm"), default="own")
    parser.add_argument("--model", default="bundled")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--cpus", type=float, default=1, help="of each worker of our own engine")
    parser.add_argument("--batch-size", type=int, default=16, help="lines that a worker answers together")
    parser.add_argument("--negative")
    parser.add_argument("--scale", type=float)
    parser.add_argument("--max-tokens", type=int, default=256)
    parser.add_argument("--temperature", type=float, default=1.0)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    options = {"max_tokens": args.max_tokens, "temperature": args.temperature}
    ray.init(include_dashboard=False, log_to_driver=False, logging_level="error")
    ray.data.DataContext.get_current().enable_progress_bars = False
    runner = (own_engines if args.engine == "own" else vllm_engines)(args, options)
    form = Lines()
    identity = {"engine": f"ray, {args.engine}", "model": args.model, "options": options}
    identity |= {"negative": args.negative, "scale": args.scale, "seed": args.seed}
    try:
        journal = Journal(args.output, identity=identity, facts={}, read=form.entry)
        with open_lines(args.source) as lines:
            progress = run_job(lines, form, runner, journal)
        journal.close()
    except (UsageError, Failure) as error:
        print(f"ray_batch: {error}", file=sys.stderr)
        return 2 if isinstance(error, UsageError) else 1
    print(f"{progress.num_answers} answered, {progress.num_errors} errors, {progress.num_earlier} from earlier")
    return 1 if journal.num_errors else 0


if __name__ == "__main__":
    sys.exit(main())
