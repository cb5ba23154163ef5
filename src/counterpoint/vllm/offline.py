"""Lines of a job answered by vLLM in this process."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from counterpoint.batch.job import Result, Task
from counterpoint.batch.lines import Line
from counterpoint.errors import UnsupportedError, UsageError
from counterpoint.guide import Branch, Guide
from counterpoint.vllm.params import engine_args, extra_args

CHUNK = 1024  # lines given to vLLM at once, which schedules them itself
RENAMED = {"stop_ids": "stop_token_ids"}


def started(model: str, form: str) -> Any:
    """`vllm.LLM` with guidance in it.

    Args:
        model: a folder or a hub id. form: of the input.

    Raises:
        UnsupportedError: the input is in OpenAI's form.
    """
    if form != "lines":
        raise UnsupportedError(
            "--engine vllm takes lines of prompts; for OpenAI's batch format start vllm serve and give its address"
        )
    from vllm import LLM

    return LLM(model, **engine_args())


class Offline:
    """A runner of lines (`batch.forms.Lines`) on `vllm.LLM`.

    Args:
        llm: of `started`.
        options: of generation, for lines that have none of their own.
        guide, negative: likewise.
    """

    def __init__(
        self, llm: Any, options: Mapping[str, Any], guide: Guide | None = None, negative: str | None = None
    ) -> None:
        self._llm, self._options, self._guide, self._negative = llm, dict(options), guide, negative

    def __call__(self, tasks: Iterator[Task]) -> Iterable[Result]:
        while chunk := [task for _, task in zip(range(CHUNK), tasks)]:
            prompts, params, begun = [], [], []
            for task in chunk:
                try:
                    prompt, asked = self._request(task.asked)
                except UsageError as error:
                    yield Result(task, error=error)
                else:
                    prompts.append(prompt)
                    params.append(asked)
                    begun.append(task)
            outputs = self._llm.generate(prompts, params, use_tqdm=False) if begun else []
            for task, output in zip(begun, outputs, strict=True):
                yield Result(task, answer=[_described(output, one) for one in output.outputs])

    def _request(self, line: Line) -> tuple[Any, Any]:
        """vLLM's prompt and parameters. Raises `UsageError`."""
        from vllm import SamplingParams, TokensPrompt

        options = {**self._options, **dict(line.options or {})}
        seed = options.pop("seed", None)
        options["seed"] = (seed or 0) + (line.number if "seed" not in (line.options or {}) else 0)
        guide = line.guide or self._guide
        negative = self._negative if line.negative is None and line.branches is None else line.negative
        branches = [Branch(b.get("prompt", b.get("prompt_ids")), b.get("weight")) for b in line.branches or ()]
        if guide is not None or negative is not None or branches:
            options["extra_args"] = extra_args(guide or Guide(), negative, branches=branches)
        try:
            params = SamplingParams(**{RENAMED.get(name, name): value for name, value in options.items()})
        except Exception as error:  # vLLM raises kinds of its own
            raise UsageError(" ".join(str(error).split())) from None
        if line.prompt is None:
            raise UsageError("prompt is null, and vLLM begins with a token; give a text or token ids", param="prompt")
        prompt = line.prompt if isinstance(line.prompt, str) else TokensPrompt(prompt_token_ids=list(line.prompt))
        return prompt, params


def _described(output: Any, one: Any) -> dict[str, Any]:
    usage = {"prompt_tokens": len(output.prompt_token_ids or ()), "completion_tokens": len(one.token_ids)}
    return {
        "text": one.text,
        "token_ids": list(one.token_ids),
        "finish_reason": one.finish_reason,
        "usage": usage,
        "index": one.index,
    }
