"""How many tokens a group can still generate before one of its branches is full, or the cache is."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from counterpoint.errors import PromptError

if TYPE_CHECKING:
    from vllm.config import VllmConfig
    from vllm.v1.core.sched.scheduler import Scheduler


@dataclass(frozen=True, slots=True)
class Capacity:
    """What one group may take.

    Args:
        sequences: sequences that can run at once.
        context_len: tokens of the model's context.
        blocks: blocks of the cache that a group alone in it can have.
        block_lens: tokens of a block, for each kind of attention that keeps blocks of its own.
    """

    sequences: int
    context_len: int
    blocks: int
    block_lens: tuple[int, ...]

    @classmethod
    def of(cls, scheduler: Scheduler) -> Capacity:
        """What a scheduler has."""
        cache = scheduler.kv_cache_manager
        return cls(
            min(scheduler.max_num_running_reqs, scheduler.max_num_active_reqs),
            scheduler.max_model_len,
            # One block is the null block; the watermark has to stay free when a branch joins the others.
            cache.block_pool.num_gpu_blocks - 1 - cache.watermark_blocks,
            tuple(manager.block_size for manager in cache.coordinator.single_type_managers),
        )

    @classmethod
    def configured(cls, config: VllmConfig) -> Capacity:
        """At least what a scheduler with this configuration has, once its engine runs."""
        scheduling, cache = config.scheduler_config, config.cache_config
        blocks = cache.num_gpu_blocks or sys.maxsize
        return cls(
            min(scheduling.max_num_seqs, scheduling.max_num_active_seqs or scheduling.max_num_seqs),
            config.model_config.max_model_len,
            blocks - 1 - int(scheduling.watermark * blocks),
            (cache.block_size,),
        )

    def needed(self, lengths: Sequence[int]) -> int:
        """Blocks for sequences of these lengths, none of them shared."""
        return sum(-(-length // block_len) for length in lengths for block_len in self.block_lens)

    def tokens_left(self, prompt_lens: Sequence[int]) -> int:
        """Tokens that branches with these prompts can all generate, 1 or more.

        Raises:
            PromptError: not even one.
        """
        if len(prompt_lens) > self.sequences:
            raise PromptError(
                f"the request has {len(prompt_lens)} branches with its own; "
                f"the server runs {self.sequences} sequences at once (--max-num-seqs)"
            )
        longest = max(prompt_lens)
        if longest >= self.context_len:
            raise PromptError(f"a branch has {longest} tokens; the model's context has {self.context_len}; shorten it")
        least, most = 0, self.context_len - longest
        while least < most:
            middle = (least + most + 1) // 2
            fits = self.needed([length + middle for length in prompt_lens]) <= self.blocks
            least, most = (middle, most) if fits else (least, middle - 1)
        if not least:
            need = self.needed([length + 1 for length in prompt_lens])
            raise PromptError(
                f"the branches need {need} blocks of the cache, which has {self.blocks}; shorten them or enlarge it"
            )
        return least
