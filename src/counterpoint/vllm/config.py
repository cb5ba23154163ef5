"""What of vLLM's configuration guidance works with. Everything else is refused at start, with the flag to change."""

from __future__ import annotations

from typing import Any

from vllm import envs
from vllm.config import VllmConfig
from vllm.lora.request import LoRARequest
from vllm.platforms import current_platform
from vllm.utils.import_utils import resolve_obj_by_qualname

from counterpoint.errors import UnsupportedError
from counterpoint.vllm import versions
from counterpoint.vllm.params import CHECK, SCHEDULER, WORKER

SETTINGS = "counterpoint"


def refuse_unsupported(config: VllmConfig) -> None:
    """Raise where guidance could not be exact, or where one of the three flags is missing.

    Raises:
        UnsupportedError: names the setting, and the flag that mends it.
    """
    scheduling, parallel, model = config.scheduler_config, config.parallel_config, config.model_config
    for wrong, message in (
        (not _is(scheduling.scheduler_cls, SCHEDULER), f"the scheduler is not ours; add --scheduler-cls {SCHEDULER}"),
        (not _is(parallel.worker_cls, WORKER), f"the worker is not ours; add --worker-cls {WORKER}"),
        (
            not any(_is(given, CHECK) for given in model.logits_processors or ()),
            f"requests' guidance is not checked; add --logits-processors {CHECK}",
        ),
        (scheduling.policy != "fcfs", f"the policy is {scheduling.policy}; use --scheduling-policy fcfs"),
        (scheduling.async_scheduling, "asynchronous scheduling is on; use --no-async-scheduling"),
        (scheduling.max_num_seqs < 2, f"--max-num-seqs is {scheduling.max_num_seqs}; use 2 or more"),
        (
            (scheduling.max_num_scheduled_tokens or scheduling.max_num_batched_tokens) < scheduling.max_num_seqs,
            f"a step has fewer tokens than sequences; raise --max-num-batched-tokens to {scheduling.max_num_seqs}",
        ),
        (envs.VLLM_USE_RUST_FRONTEND, "the frontend is not the one that checks guidance; set VLLM_USE_RUST_FRONTEND=0"),
        (config.watermark_config is not None, "watermarks are on; leave --watermark-config out"),
        (parallel.enable_batch_sharded_sampling, "batch-sharded sampling is on; leave it out"),
        (config.speculative_config is not None, "speculative decoding is on; leave --speculative-config out"),
        (parallel.pipeline_parallel_size > 1, "pipeline parallelism is on; use --pipeline-parallel-size 1"),
        (parallel.data_parallel_size > 1, "data parallelism is on; start one server for each replica"),
        (parallel.decode_context_parallel_size > 1, "decode context parallelism is on; leave it out"),
        (config.kv_transfer_config is not None, "a KV connector is set; leave --kv-transfer-config out"),
        (config.ec_transfer_config is not None, "an encoder cache connector is set; leave it out"),
        (model.runner_type != "generate", f"the model is served for {model.runner_type}; only generation is guided"),
        (model.is_encoder_decoder, "the model is an encoder-decoder; guidance works on decoder-only models"),
        (model.is_diffusion, "the model generates by diffusion; guidance works on autoregressive models"),
    ):
        if wrong:
            raise UnsupportedError(f"counterpoint.vllm: {message}")


def refuse_mixed_adapters(config: VllmConfig, lora_request: LoRARequest | None) -> None:
    """Raise for a request without an adapter where vLLM would read it with another's.

    0.32.0 does so on a CPU, guided or not, where both are in one step: its torch_ops take the index -1 for the last adapter.
    """
    mixes = current_platform.is_cpu() and versions.installed() == "0.32.0"
    if mixes and config.lora_config is not None and lora_request is None:
        raise UnsupportedError(
            "on a CPU, vLLM 0.32.0 mixes up requests with an adapter and those without; name an adapter as the model, use "
            "vLLM 0.33.0, or start the server without --enable-lora"
        )


def setting(config: VllmConfig, name: str, default: float) -> float:
    """A number of ours from `--additional-config '{"counterpoint": {"stall_s": 60}}'`."""
    given = config.additional_config
    return float((given.get(SETTINGS) or {}).get(name, default)) if isinstance(given, dict) else default


def _is(given: Any, ours: str) -> bool:
    wanted = resolve_obj_by_qualname(ours.replace(":", "."))
    if isinstance(given, str):
        try:
            given = resolve_obj_by_qualname(given.replace(":", "."))
        except (ImportError, AttributeError, ValueError):
            return False
    return isinstance(given, type) and issubclass(given, wanted)
