"""vLLM's worker for this platform, with the model runner that guides."""

from __future__ import annotations

from vllm.logger import init_logger
from vllm.platforms import current_platform

from counterpoint.errors import UnsupportedError
from counterpoint.vllm import versions
from counterpoint.vllm.config import refuse_unsupported
from counterpoint.vllm.runner import GuidedRunner

versions.require()
logger = init_logger("vllm.counterpoint")

if current_platform.is_cpu():
    from vllm.v1.worker.cpu_model_runner import CPUModelRunner as ModelRunner
    from vllm.v1.worker.cpu_worker import CPUWorker as Worker
elif current_platform.is_cuda():
    from vllm.v1.worker.gpu_model_runner import GPUModelRunner as ModelRunner
    from vllm.v1.worker.gpu_worker import Worker
else:
    raise UnsupportedError(f"counterpoint.vllm works on CPU and CUDA, not on {current_platform.device_name}")


class GuidedModelRunner(GuidedRunner, ModelRunner):
    """The platform's runner with guidance in front."""


class GuidedWorker(Worker):
    """`--worker-cls counterpoint.vllm.worker.GuidedWorker`."""

    def init_device(self) -> None:
        refuse_unsupported(self.vllm_config)
        super().init_device()
        if type(self.model_runner) is not ModelRunner:
            raise UnsupportedError(f"the model runner is {type(self.model_runner)}; set VLLM_USE_V2_MODEL_RUNNER=0")
        if not current_platform.is_cpu():
            logger.warning(
                "counterpoint: guidance in vLLM was tested on CPU only; run its tests here first (docs/vllm.md)."
            )
        # `init_device` names the runner's class itself; this is the one way in that copies none of it.
        self.model_runner.__class__ = GuidedModelRunner
        self.model_runner.prepare_guidance()
