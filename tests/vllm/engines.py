"""Engines in this process, so that a test can look into the scheduler. One at a time."""

from __future__ import annotations

import contextlib
import gc
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0"
os.environ.setdefault("VLLM_CPU_OMP_THREADS_BIND", "nobind")

BLOCK_LEN = 32


def room() -> dict[str, Any]:
    """Settings that let many small engines share a GPU; a CPU needs none."""
    from vllm.platforms import current_platform

    return {"gpu_memory_utilization": 0.02} if current_platform.is_cuda() else {}


@contextlib.contextmanager
def started(folder: Path, **settings: Any) -> Iterator[Any]:
    """A guided `vllm.LLM` on a saved model, small and eager unless the settings say otherwise."""
    from vllm import LLM

    from counterpoint.vllm import engine_args

    small = {
        **room(),
        "dtype": "float32",
        "enforce_eager": True,
        "block_size": BLOCK_LEN,
        "kv_cache_memory_bytes": 1 << 24,
        "num_gpu_blocks_override": 100,
        "max_num_seqs": 16,
        "max_num_batched_tokens": 256,
    }
    llm = LLM(str(folder), **{**small, **engine_args(), **settings})
    try:
        yield llm
    finally:
        # Now: vLLM would do it when the engine is collected, and end the process groups of the one that runs by then.
        llm.llm_engine.engine_core.shutdown()
        del llm
        gc.collect()


def scheduler_of(llm: Any) -> Any:
    """The scheduler inside."""
    return llm.llm_engine.engine_core.engine_core.scheduler


def idle(llm: Any) -> bool:
    """Whether nothing is left of any request: no group, no sequence, no block of the cache."""
    scheduler = scheduler_of(llm)
    while scheduler.has_requests():
        llm.llm_engine.step()
    pool = scheduler.kv_cache_manager.block_pool
    counts = (len(scheduler.groups), len(scheduler.requests), len(scheduler.running), len(scheduler.waiting))
    return not any(counts) and pool.get_num_free_blocks() == pool.num_gpu_blocks - 1
