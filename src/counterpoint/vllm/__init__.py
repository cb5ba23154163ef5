"""Guidance inside vLLM, without a fork: a scheduler, a worker and a check of the parameters, each named by a flag.

    vllm serve MODEL --scheduler-cls counterpoint.vllm.scheduler.GuidedScheduler \\
                     --worker-cls counterpoint.vllm.worker.GuidedWorker \\
                     --logits-processors counterpoint.vllm.check:GuidanceCheck

One user request carries the guidance in its `extra_args` (`vllm_xargs` over HTTP). The scheduler adds a hidden request
for every further branch, and the model runner combines their rows before the sampler. This room knows vLLM's private
parts; `counterpoint.vllm.versions` lists them. Importing it needs neither vLLM nor torch.
"""

from counterpoint.vllm.params import engine_args, extra_args

__all__ = ["engine_args", "extra_args"]
