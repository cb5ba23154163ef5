"""The check of a request's guidance, where vLLM asks for it: a logits processor that changes nothing."""

from __future__ import annotations

import torch
from vllm import SamplingParams
from vllm.config import VllmConfig
from vllm.v1.sample.logits_processor import BatchUpdate, LogitsProcessor

from counterpoint.vllm import versions
from counterpoint.vllm.config import refuse_unsupported
from counterpoint.vllm.params import read

versions.require()


class GuidanceCheck(LogitsProcessor):
    """Refuses what can't be guided: a request when it arrives (HTTP 400), a configuration at start."""

    @classmethod
    def validate_params(cls, sampling_params: SamplingParams) -> None:
        """Raise `UsageError`, a `ValueError`, where the request's guidance has no meaning."""
        read(sampling_params.extra_args)

    def __init__(self, vllm_config: VllmConfig, device: torch.device, is_pin_memory: bool) -> None:
        refuse_unsupported(vllm_config)

    def is_argmax_invariant(self) -> bool:
        return True

    def update_state(self, batch_update: BatchUpdate | None) -> None:
        return None

    def apply(self, logits: torch.Tensor) -> torch.Tensor:
        return logits
