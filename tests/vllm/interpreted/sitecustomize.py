"""vLLM's second runner on a CPU: Triton's interpreter in the place of its compiler, in every process of vLLM's.

    TRITON_INTERPRET=1 PYTHONPATH=tests/vllm/interpreted python ...

Python imports this file at its start. vLLM then finds a Triton back end for CPUs and chooses its second runner by itself.
Two of its kernels are beyond the interpreter; what they compute is computed with torch instead.
"""

import importlib.abc
import importlib.machinery
import importlib.util
import os
import sys


class Driver:
    """A back end that is there and asks for nothing."""

    @staticmethod
    def is_active():
        return False


class Patched(importlib.abc.Loader):
    """A module's own loader, and one change after it."""

    def __init__(self, loader, change):
        self.loader, self.change = loader, change

    def create_module(self, spec):
        return self.loader.create_module(spec)

    def exec_module(self, module):
        self.loader.exec_module(module)
        self.change(module)


class Finder(importlib.abc.MetaPathFinder):
    """Finds the modules of `CHANGES` where they are, and wraps their loaders."""

    def find_spec(self, name, path, target=None):
        if name not in CHANGES:
            return None
        spec = importlib.machinery.PathFinder.find_spec(name, path, target)
        if spec is not None:
            spec.loader = Patched(spec.loader, CHANGES[name])
        return spec


def back_end(module):
    """`triton.backends` with one for CPUs."""
    some = next(iter(module.backends.values()))
    module.backends["cpu"] = type(some)(compiler=None, driver=Driver)


def top_k_top_p(module):
    """`apply_top_k_top_p_triton` by vLLM's own torch function."""

    def by_torch(logits, k, p, *_, **__):
        from vllm.v1.sample.ops.topk_topp_sampler import apply_top_k_top_p_pytorch

        return apply_top_k_top_p_pytorch(logits, k, p, allow_cpu_sync=True)

    module.apply_top_k_top_p_triton = by_torch


def grammar(module):
    """The kernel that writes grammars' masks: row i of `bitmask` goes to the row of logits that `indices` names."""

    def by_torch(logits, _, indices, cu_num_logits, bitmask, __, vocab_size, *, MASK_STRIDE, **___):
        import torch

        bits = (bitmask.unsqueeze(-1) >> torch.arange(32)) & 1  # (G, V / 32, 32)
        rows = cu_num_logits[indices // MASK_STRIDE] + indices % MASK_STRIDE
        logits[rows.long()] = logits[rows.long()].masked_fill(bits.flatten(1)[:, :vocab_size] == 0, float("-inf"))

    class Kernel:
        def __getitem__(self, grid):
            return by_torch

    module._apply_grammar_bitmask_kernel = Kernel()


CHANGES = {
    "triton.backends": back_end,
    "vllm.v1.sample.ops.topk_topp_triton": top_k_top_p,
    "vllm.v1.worker.gpu.structured_outputs": grammar,
}

if os.environ.get("TRITON_INTERPRET") == "1":
    sys.meta_path.insert(0, Finder())
