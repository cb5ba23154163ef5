"""vLLM's worker for this platform, with a model runner that guides: the first or the second of vLLM."""

from __future__ import annotations

from typing import Any

from vllm.logger import init_logger
from vllm.platforms import current_platform

from counterpoint.errors import UnsupportedError
from counterpoint.vllm import v1, versions
from counterpoint.vllm.config import refuse_unsupported

versions.require()
logger = init_logger("vllm.counterpoint")

if current_platform.is_cpu():
    from vllm.v1.worker.cpu_model_runner import CPUModelRunner as FirstRunner
    from vllm.v1.worker.cpu_worker import CPUWorker as Worker
elif current_platform.is_cuda():
    from vllm.v1.worker.gpu_model_runner import GPUModelRunner as FirstRunner
    from vllm.v1.worker.gpu_worker import Worker
else:
    raise UnsupportedError(f"counterpoint.vllm works on CPU and CUDA, not on {current_platform.device_name}")


class GuidedFirstRunner(v1.GuidedRunner, FirstRunner):
    """The platform's first runner with guidance in front."""


class GuidedWorker(Worker):
    """`--worker-cls counterpoint.vllm.worker.GuidedWorker`, with whichever runner vLLM chooses."""

    def init_device(self) -> None:
        refuse_unsupported(self.vllm_config)
        super().init_device()
        if current_platform.is_cuda() and versions.installed() not in versions.RUN_ON_A_GPU:
            logger.warning(
                "counterpoint: guidance was run on a GPU with vLLM %s, not with %s; run its tests here first (docs/vllm.md).",
                ", ".join(versions.RUN_ON_A_GPU),
                versions.installed(),
            )
        if self.use_v2_model_runner:
            return  # Its sampler comes with the model.
        if type(self.model_runner) is not FirstRunner:
            raise UnsupportedError(f"counterpoint.vllm: the model runner is {type(self.model_runner)}; use vLLM's own")
        # `init_device` names the runner's class itself; this is the one way in that copies none of it.
        self.model_runner.__class__ = GuidedFirstRunner
        self.model_runner.prepare_guidance()

    def load_model(self, *args: Any, **kwargs: Any) -> None:
        super().load_model(*args, **kwargs)
        if self.use_v2_model_runner:
            from counterpoint.vllm import v2

            v2.guide(self.model_runner)
