"""The check of a request's guidance, where vLLM asks for it: a logits processor that changes nothing."""

from __future__ import annotations

import inspect
from typing import Any

import torch
from vllm import SamplingParams
from vllm.config import VllmConfig
from vllm.v1.engine.input_processor import InputProcessor
from vllm.v1.sample.logits_processor import BatchUpdate
from vllm.v1.sample.logits_processor import LogitsProcessor as FirstRunnersProcessor
from vllm.v1.worker.gpu.sample.logits_processor import LogitsProcessor as SecondRunnersProcessor

from counterpoint.errors import UnsupportedError
from counterpoint.vllm import versions
from counterpoint.vllm.arrival import (
    ONLY_TOKENS,
    Vocabulary,
    branch_ids,
    refuse_beam,
    refuse_idle,
)
from counterpoint.vllm.capacity import Capacity
from counterpoint.vllm.config import refuse_mixed_adapters, refuse_unsupported
from counterpoint.vllm.params import read

versions.require()


class GuidanceCheck(FirstRunnersProcessor, SecondRunnersProcessor):
    """Refuses what can't be guided: a request when it arrives (HTTP 400), a configuration at start."""

    @classmethod
    def validate_params(cls, sampling_params: SamplingParams) -> None:
        """Raise `UsageError`, a `ValueError`, where the request's guidance has no meaning or no room."""
        plan = read(sampling_params.extra_args)
        arriving = _arriving()
        if arriving is None:
            return  # The scheduler refuses what can't be seen from here.
        refuse_beam(arriving["request_id"], sampling_params)
        if plan is None:
            return
        prompt = arriving["prompt"] if isinstance(arriving["prompt"], dict) else {}
        if arriving["resumable"] or prompt.get("type", "token") != "token":
            raise UnsupportedError(ONLY_TOKENS)
        prompt_ids = prompt.get("prompt_token_ids")
        if not prompt_ids:
            return
        processor: InputProcessor = arriving["self"]
        refuse_mixed_adapters(processor.vllm_config, arriving["lora_request"])
        model, vocabulary = processor.model_config, Vocabulary.of(processor.model_config, processor.tokenizer)
        contexts = branch_ids(plan, prompt_ids, arriving["request_id"], vocabulary)
        left = Capacity.configured(processor.vllm_config).tokens_left([len(prompt_ids), *map(len, contexts)])
        refuse_idle(
            plan,
            sampling_params,
            num_tokens=left if sampling_params.max_tokens is None else min(left, sampling_params.max_tokens),
            vocab_size=vocabulary.size,
            alone=len(model.logits_processors) == 1,
        )

    def __init__(self, vllm_config: VllmConfig, *_: Any) -> None:
        refuse_unsupported(vllm_config)

    def is_argmax_invariant(self) -> bool:
        return True

    def update_state(self, batch_update: BatchUpdate | None) -> None:
        return None

    def add_request(self, req_idx: int, sampling_params: SamplingParams) -> bool:
        return False

    def apply(self, logits: torch.Tensor, ctx: Any = None) -> torch.Tensor:
        return logits


def _arriving() -> dict[str, Any] | None:
    """The request that is being checked: vLLM hands over its parameters alone, so it is read from who asks."""
    frame = inspect.currentframe()
    while frame is not None and frame.f_code is not InputProcessor.process_inputs.__code__:
        frame = frame.f_back
    return None if frame is None else frame.f_locals
