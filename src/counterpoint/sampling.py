"""From guided log-probabilities to a token. Nothing here knows about guidance."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from counterpoint.errors import Failure, NothingLeftError, SamplingError

NEG_INF = float("-inf")
LEAST = 1e-30  # what float32 would round to 0 makes NaN of 0 / 0 and -inf * 0
BLOCK = 64  # tokens that are one choice at first: 786 blocks of 50,257 tokens
SEED_VERSION = 2  # raised when a seed comes to give other samples, so that none are kept from before
STEP = 2.0**-53  # torch's uniform random numbers in float64 are its multiples, from 0 to below 1

#: (prompt ids, output ids, (V,) log-probabilities) -> (V,) scores: a constraint on the output, such as a grammar.
Processor = Callable[[Sequence[int], Sequence[int], Tensor], Tensor]


@dataclass(frozen=True, slots=True, kw_only=True)
class Sampling:
    """How one token is drawn from a distribution.

    Applied once, in this order: repetition penalty, presence and frequency penalty, logit bias, temperature, top-k,
    top-p, min-p; then one draw.

    Args:
        temperature: >= 0; 0 is greedy.
        top_k: keep the k most probable tokens; 0 is off.
        top_p: in (0, 1]; keep the smallest set of tokens whose probability reaches it; 1 is off.
        min_p: in [0, 1]; keep tokens with at least this share of the largest probability; 0 is off.
        repetition_penalty: > 0; divides the log-odds of tokens in the prompt or the output (arXiv 1909.05858);
            1 is off. On log-probabilities, which are never positive, it multiplies.
        presence_penalty, frequency_penalty: finite; subtracted once, and once for each time, for tokens in the output.
        logit_bias: token id to a finite number or -inf that is added.

    Raises:
        SamplingError: a value is out of its range.
    """

    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0
    repetition_penalty: float = 1.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    logit_bias: Mapping[int, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for f in dataclasses.fields(self):
            value = getattr(self, f.name)
            if f.name == "logit_bias":
                continue
            if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
                raise SamplingError(f"{f.name} is {value!r}; use a finite number", param=f.name)
        if self.temperature < 0:
            raise SamplingError(f"temperature is {self.temperature}; use 0 (greedy) or more", param="temperature")
        if not isinstance(self.top_k, int) or self.top_k < 0:
            raise SamplingError(f"top_k is {self.top_k!r}; use a count of tokens, 0 for off", param="top_k")
        if not 0 < self.top_p <= 1:
            raise SamplingError(f"top_p is {self.top_p}; use a number above 0, up to 1", param="top_p")
        if not 0 <= self.min_p <= 1:
            raise SamplingError(f"min_p is {self.min_p}; use a number from 0 to 1", param="min_p")
        if self.repetition_penalty <= 0:
            raise SamplingError(
                f"repetition_penalty is {self.repetition_penalty}; use a number above 0", param="repetition_penalty"
            )
        for token_id, bias in self.logit_bias.items():
            if isinstance(token_id, bool) or not isinstance(token_id, int) or token_id < 0:
                raise SamplingError(f"logit_bias has the token id {token_id!r}; use ids from 0", param="logit_bias")
            if isinstance(bias, bool) or not isinstance(bias, (int, float)) or math.isnan(bias) or bias == math.inf:
                raise SamplingError(
                    f"logit_bias of token {token_id} is {bias!r}; use a finite number or -inf", param="logit_bias"
                )

    @property
    def greedy(self) -> bool:
        """Whether the most probable token is taken."""
        return self.temperature == 0

    @property
    def changes_order(self) -> bool:
        """Whether the most probable token can differ from that of the distribution as it came."""
        return bool(self.repetition_penalty != 1 or self.presence_penalty or self.frequency_penalty or self.logit_bias)

    @property
    def truncates(self) -> bool:
        """Whether tokens are left out for being unlikely."""
        return bool(self.top_k or self.top_p < 1 or self.min_p)

    @property
    def plain(self) -> bool:
        """Whether nothing is done to the distribution before the choice but dividing by the temperature."""
        return not self.changes_order and not self.truncates


def generator(seed: int | None, device: torch.device | str = "cpu") -> torch.Generator:
    """A source of random numbers for one request; fresh entropy where `seed` is None."""
    made = torch.Generator(device)
    made.seed() if seed is None else made.manual_seed(seed)
    return made


def processed(
    logprobs: Tensor,
    sampling: Sampling,
    *,
    prompt_ids: Sequence[int],
    output_ids: Sequence[int],
    processors: Sequence[Processor] = (),
) -> Tensor:
    """Scores whose softmax is the distribution that is drawn from. (V,) -> (V,); not normalised.

    Args:
        logprobs: (V,) guided log-probabilities.
        prompt_ids, output_ids: what the penalties count.
        processors: called in order after the penalties, before the temperature.

    Raises:
        SamplingError: a token id of `logit_bias` is outside of the vocabulary.
        NothingLeftError: every token is ruled out.
    """
    scores = logprobs
    if sampling.changes_order:
        scores = _penalised(scores.clone(), sampling, prompt_ids, output_ids)
    for processor in processors:
        scores = _checked(processor, processor(prompt_ids, output_ids, scores), scores)
    if (processors or sampling.logit_bias) and scores.amax() == NEG_INF:
        raise NothingLeftError(
            f"no token is left to choose after {len(output_ids)} generated ones: the constraints rule out every token "
            "that the model allows; loosen them"
        )
    if sampling.greedy:
        return scores
    scores = tempered(scores[None], [sampling.temperature])[0]
    return truncated(scores, sampling)


def _checked(processor: Processor, scores: Tensor, given: Tensor) -> Tensor:
    """What a processor returned, where a token can be chosen by it."""
    name = getattr(processor, "__name__", type(processor).__name__)
    if not isinstance(scores, Tensor) or scores.shape != given.shape:
        said = f"a tensor of shape {tuple(scores.shape)}" if isinstance(scores, Tensor) else type(scores).__name__
        raise SamplingError(
            f"the processor {name} returned {said}; return scores of shape {tuple(given.shape)}", param="processors"
        )
    best = float(scores.amax())
    if math.isnan(best) or best == math.inf:
        raise SamplingError(
            f"the processor {name} returned scores with {best}; return finite ones, or -inf for a ban",
            param="processors",
        )
    return scores


def tempered(scores: Tensor, temperatures: Sequence[float]) -> Tensor:
    """Each row divided by its temperature, which is above 0; only differences within a row count. (N, V) -> (N, V)."""
    if all(temperature == 1 for temperature in temperatures):
        return scores
    divisors = scores.new_tensor([in_range(temperature) for temperature in temperatures])
    # The largest is brought to 0 first, so that no temperature, however low, overflows.
    return (scores - scores.amax(-1, keepdim=True)) / divisors.unsqueeze(-1)


def in_range(temperature: float) -> float:
    """A temperature above 0 that float32 holds without overflow."""
    return min(max(temperature, LEAST), 1 / LEAST)


def truncated(scores: Tensor, sampling: Sampling) -> Tensor:
    """What top-k, top-p and min-p leave; the other tokens are at -inf. (V,) -> (V,)."""
    if sampling.top_k and sampling.top_k < scores.shape[-1]:
        least = scores.topk(sampling.top_k).values[-1]
        scores = scores.masked_fill(scores < least, NEG_INF)
    if sampling.top_p < 1:
        scores = torch.log_softmax(scores, -1)
        scores = scores.masked_fill(~_nucleus(scores, sampling.top_p), NEG_INF)
    if sampling.min_p:
        least = scores.amax() + math.log(sampling.min_p)
        scores = scores.masked_fill(scores < least, NEG_INF)
    return scores


def draw(scores: Tensor, sampling: Sampling, source: torch.Generator) -> int:
    """One token id from what `processed` returned. (V,) -> id. As `draw_rows`; greedy is the first of the best."""
    return int(scores.argmax()) if sampling.greedy else draw_rows(scores[None], [source])[0]


def draw_rows(scores: Tensor, sources: Sequence[torch.Generator]) -> list[int]:
    """One token id for each row, i with probability `p_i` of `p = softmax(scores)`. (N, V) -> N ids.

    Two races of exponential random numbers e. The ids are dealt out to `n = ceil(V / BLOCK)` blocks, i to `i mod n`:

        b = argmax  P_b / e_b     over the blocks, P_b being the sum of their p_i
        i = argmax  p_i / e'_k    over the tokens of block b, k = i div n being their places

    `e_i / p_i` is exponential with rate p_i, and of several such the least is the i-th with probability
    `p_i / sum p`. So block b comes with probability P_b, and its token i with `p_i / P_b`.

    One race over all tokens does the same, but takes a random number for each, which is most of what a draw costs. Two
    take `n + BLOCK` from each source, whatever p and the result are: the i-th token of a seed always has the same
    ones. Given the same ones, distributions that are near mostly give the same token, which guesses rely
    on. Ids are dealt out rather than cut into runs, since common tokens have neighbouring ids: where a block has
    one likely token, only the first race can tell two such distributions apart.

    A token of probability 0 is never drawn: every e is between 1e-16 and 38, so its quotient is 0 and another's is not.

    Raises:
        Failure: a row holds NaN or a positive infinity; no source has been used then.
    """
    num_blocks = -(-scores.shape[-1] // BLOCK)
    probs = torch.nn.functional.pad(torch.softmax(scores, -1), (0, num_blocks * BLOCK - scores.shape[-1]))
    probs = probs.view(len(scores), BLOCK, num_blocks)
    masses = probs.sum(1, dtype=torch.float64)  # in float32 a sum would be rounded more than what it is of
    if masses[:, 0].isnan().any():
        raise Failure("the scores of the next token hold NaN or infinity; load the model with dtype float32")
    waits = torch.stack(uniform(scores.shape[-1], sources, scores.device)).clamp_(min=STEP / 2).log_().neg_()
    block = (masses / waits[:, :num_blocks]).argmax(-1)
    place = (probs[torch.arange(len(probs)), :, block] / waits[:, num_blocks:]).argmax(-1)
    return (place * num_blocks + block).tolist()


def pass_over(vocab_size: int, sampling: Sampling, source: torch.Generator) -> None:
    """Use up the random numbers of one `draw` from so many tokens, whose result is known already."""
    if not sampling.greedy:
        uniform(vocab_size, [source], source.device)


def uniform(vocab_size: int, sources: Sequence[torch.Generator], device: torch.device) -> list[Tensor]:
    """The random numbers of one draw from each source, of the blocks and then of the places: N of (n + BLOCK,) float64, from
    0 to below 1."""
    count = -(-vocab_size // BLOCK) + BLOCK
    # In float32 the least would be 6e-8: far too coarse for a race of many tokens that are less likely than that.
    return [torch.rand(count, dtype=torch.float64, generator=source, device=device) for source in sources]


def _penalised(scores: Tensor, sampling: Sampling, prompt_ids: Sequence[int], output_ids: Sequence[int]) -> Tensor:
    if sampling.repetition_penalty != 1:
        seen = torch.tensor(sorted({*prompt_ids, *output_ids}), dtype=torch.long, device=scores.device)
        scores[seen] *= min(max(sampling.repetition_penalty, LEAST), 1 / LEAST)
    if (sampling.presence_penalty or sampling.frequency_penalty) and output_ids:
        ids, counts = torch.tensor(output_ids, device=scores.device).unique(return_counts=True)
        scores[ids] -= sampling.presence_penalty + sampling.frequency_penalty * counts
    if sampling.logit_bias:
        ids = list(sampling.logit_bias)
        if max(ids) >= scores.shape[-1]:
            raise SamplingError(
                f"logit_bias has the token id {max(ids)}; this model's ids end at {scores.shape[-1] - 1}",
                param="logit_bias",
            )
        biased = scores[ids] + torch.tensor([float(sampling.logit_bias[i]) for i in ids], device=scores.device)
        scores[ids] = biased
    return scores


def _nucleus(scores: Tensor, top_p: float) -> Tensor:
    """Which tokens are in the smallest set that reaches `top_p`, the best one always; of equals the first. (V,) of bool."""
    # Whatever is less likely sums to half of what may be left out at most, so only the others need to be sorted.
    likely = scores[scores >= math.log((1 - top_p) / (2 * scores.shape[-1]))]
    ordered = likely.sort(descending=True).values
    before = ordered.exp().cumsum(-1) - ordered.exp()
    kept = max(1, int((before < top_p).sum()))
    least = ordered[kept - 1]
    if kept == len(ordered) or ordered[kept] < least:
        return scores >= least
    above, equal = scores > least, scores == least
    return above | (equal & (equal.cumsum(-1) <= kept - above.sum()))
