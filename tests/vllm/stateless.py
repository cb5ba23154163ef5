"""The oracle: guided decoding without a cache, without batches, one whole forward for every branch and token.

Written from the formulas' definitions in float64, not with `counterpoint.formulas`. The model runs on the CPU in float32
wherever vLLM runs; noise is made where vLLM makes it, since its numbers depend on the device.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from transformers import AutoModelForCausalLM
from vllm import envs
from vllm.platforms import current_platform
from vllm.triton_utils import HAS_TRITON

from counterpoint.guide import Guide

TIE = 1e-4  # log-probability; two tokens closer than this may be chosen either way


def second_runner() -> bool:
    """Whether vLLM chooses its second runner: where Triton is, unless it is told otherwise."""
    return HAS_TRITON and envs.VLLM_USE_V2_MODEL_RUNNER is not False


@dataclass(frozen=True, slots=True)
class Job:
    """One request. `contexts` and `weights` are those of the further branches."""

    prompt: Sequence[int]
    contexts: Sequence[Sequence[int]] = ()
    weights: Sequence[float] = ()
    guide: Guide = field(default_factory=Guide)


class Stateless:
    """A saved model, run on whole sequences only."""

    def __init__(self, folder: Path) -> None:
        self.model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()

    @torch.inference_mode()
    def log_probs(self, ids: Sequence[int], last: int = 1) -> np.ndarray:
        """Log-probabilities at the last positions. (last, V), float64."""
        logits = self.model(torch.tensor([list(ids)]), use_cache=False).logits[0, -last:].double()
        return torch.log_softmax(logits, -1).numpy()

    def guided(self, job: Job, output: Sequence[int], allowed: np.ndarray | None = None) -> np.ndarray:
        """The guided log-probabilities of every step that led to `output`, and of the next one. (len + 1, V).

        `allowed` says for each of them which tokens a constraint leaves; every branch is conditioned on it.
        """
        steps = len(output) + 1
        cond = self.log_probs([*job.prompt, *output], steps)
        others = [self.log_probs([*context, *output], steps) for context in job.contexts]
        if allowed is not None:
            cond, others = conditioned(cond, allowed), [conditioned(other, allowed) for other in others]
        rows = []
        for step in range(steps):
            active = job.guide.start <= step and (job.guide.stop is None or step < job.guide.stop)
            rows.append(combine(cond[step], [other[step] for other in others], job) if active else cond[step])
        return np.stack(rows)


def conditioned(rows: np.ndarray, allowed: np.ndarray) -> np.ndarray:
    """Log-probabilities given that the token is an allowed one. (S, V), (S, V) of bool."""
    kept = np.where(allowed, rows, -np.inf)
    return kept - np.logaddexp.reduce(kept, -1, keepdims=True)


def combine(cond: np.ndarray, others: list[np.ndarray], job: Job) -> np.ndarray:
    """One step's guided log-probabilities, by the definitions."""
    guide, p = job.guide, np.exp(cond)
    if guide.gate and -(p * np.where(p > 0, cond, 0)).sum() < guide.gate:
        return cond
    weights = list(job.weights)
    if guide.adaptive == "jsd":
        weights = [w * jsd_bits(p, np.exp(other)) for w, other in zip(weights, others, strict=True)]
    own = 1 - sum(weights)
    with np.errstate(divide="ignore"):
        if guide.space == "log":
            with np.errstate(invalid="ignore"):
                mixed = own * cond + sum(w * other for w, other in zip(weights, others, strict=True))
            mixed = np.where(np.isneginf(cond), -np.inf, mixed)
        else:
            q = own * p + sum(w * np.exp(other) for w, other in zip(weights, others, strict=True))
            mixed = np.log(np.maximum(q, 0))
        if guide.plausibility:
            mixed = np.where(cond >= cond.max() + np.log(guide.plausibility), mixed, -np.inf)
    if np.isneginf(mixed).all():
        return cond  # nothing is left: no guidance at this step
    return mixed - np.logaddexp.reduce(mixed)


def jsd_bits(p: np.ndarray, q: np.ndarray) -> float:
    """Jensen-Shannon divergence in bits."""
    m = (p + q) / 2
    with np.errstate(divide="ignore", invalid="ignore"):
        parts = [np.where(each > 0, each * np.log2(each / m), 0) for each in (p, q)]
    return float(sum(parts).sum() / 2)


def differences(rows: np.ndarray, output: Sequence[int]) -> list[tuple[int, float]]:
    """Greedy: the steps at which `output` is not the most probable token, with how much worse it is.

    `rows` comes from `Stateless.guided(job, output)`; without differences, `output` is the loop's by induction.
    """
    worse = [float(rows[step].max() - rows[step][token]) for step, token in enumerate(output)]
    return [(step, margin) for step, margin in enumerate(worse) if margin > 0]


Change = Callable[[np.ndarray, list[int]], np.ndarray]  # of the guided row, given the output so far


def loop(
    model: Stateless, job: Job, *, max_tokens: int, ends: Sequence[int] = (), change: Change | None = None
) -> list[int]:
    """Greedy decoding, one whole forward for each branch and token; `change` stands for penalties and grammars."""
    output: list[int] = []
    while len(output) < max_tokens and (not output or output[-1] not in ends):
        row = model.guided(job, output)[-1]
        output.append(int((row if change is None else change(row, output)).argmax()))
    return output


@dataclass(frozen=True, slots=True)
class Draw:
    """How a token is drawn; temperature 0 is greedy."""

    temperature: float = 0.0
    top_k: int = 0
    top_p: float = 1.0
    seed: int = 0


def replay(rows: np.ndarray, output: Sequence[int], draw: Draw, prompt_len: int) -> list[tuple[int, float]]:
    """The steps at which `output` is not what the loop chooses, with how far off the token is in log-probability.

    By induction, without differences `output` is the loop's. The draws are those of vLLM's own samplers.
    """
    if draw.temperature == 0:
        return differences(rows, output)
    drawn = _second_runners_draw if second_runner() else _first_runners_draw
    raised = rows[: len(output)].copy()
    raised[np.arange(len(output)), output] += TIE
    chosen, other = (drawn(_kept(each[: len(output)], draw), draw, prompt_len) for each in (rows, raised))
    return [
        (step, TIE if other[step] == token else float("inf"))
        for step, token in enumerate(output)
        if chosen[step] != token
    ]


def _kept(rows: np.ndarray, draw: Draw) -> torch.Tensor:
    """Scores after temperature, top-k and top-p. (S, V)."""
    from vllm.v1.sample.ops.topk_topp_sampler import apply_top_k_top_p_pytorch

    scores = torch.tensor(rows, dtype=torch.float32) / draw.temperature
    k = torch.full((len(rows),), draw.top_k) if draw.top_k else None
    p = torch.full((len(rows),), draw.top_p) if draw.top_p < 1 else None
    kept = scores if k is None and p is None else apply_top_k_top_p_pytorch(scores, k, p, allow_cpu_sync=True)
    return kept.contiguous()


def _first_runners_draw(scores: torch.Tensor, draw: Draw, prompt_len: int) -> list[int]:
    """On a CPU one number from the seed's generator for each token; on a GPU one for each token of the vocabulary."""
    if current_platform.is_cuda():
        source = torch.Generator("cuda").manual_seed(draw.seed)
        probs = scores.to("cuda").softmax(-1)
        return [int((row / torch.empty_like(row).exponential_(generator=source)).argmax()) for row in probs]
    source = torch.Generator().manual_seed(draw.seed)
    noises = [torch.randint(0, 2**31, (1,), generator=source, dtype=torch.long) for _ in scores]
    return [int(torch.ops._C.fused_gumbel_argmax(row[None], noise)) for row, noise in zip(scores, noises, strict=True)]


def _second_runners_draw(scores: torch.Tensor, draw: Draw, prompt_len: int) -> list[int]:
    """Noise by the seed and the position of the token before."""
    from vllm.v1.worker.gpu.sample.gumbel import gumbel_sample

    device = current_platform.device_type
    positions = torch.arange(prompt_len - 1, prompt_len - 1 + len(scores), device=device)
    slots = torch.zeros(len(scores), dtype=torch.int32, device=device)
    temperature, seed = torch.tensor([draw.temperature], device=device), torch.tensor([draw.seed], device=device)
    return gumbel_sample(
        scores.to(device), slots, temperature, seed, positions, apply_temperature=False, is_drafting=False
    ).tolist()
