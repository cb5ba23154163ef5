"""The cases: what may not go wrong in any integration, each checked against the loop without state."""

from __future__ import annotations

import contextlib
import copy
import dataclasses
import inspect
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from transformers import PreTrainedModel

from conformance import oracle
from conformance.architectures import IMAGE, VISION_END, VISION_START, Architecture, next_logits
from conformance.request import Integration, NotOffered, Request, TokenIds
from counterpoint.guide import Guide

Check = Callable[[Integration, Architecture, PreTrainedModel], str | None]

# Lengths differ on purpose: windows of 8 are passed, and no two branches are as long as each other.
SHORT: TokenIds = (7, 12, 9)
LONG: TokenIds = (20, 31, 45, 18, 22, 60, 71, 33, 14, 90, 52)
NEGATIVE: TokenIds = (40, 8, 66, 13, 27)
LONG_NEGATIVE: TokenIds = (3, 84, 55, 29, 61, 42, 38, 10, 73, 25, 11, 50, 64)
SHORT_NEGATIVE: TokenIds = (44, 17)
PICTURE = (VISION_START, IMAGE, IMAGE, IMAGE, IMAGE, VISION_END)

ONE = Request(prompts=(SHORT,), negatives=(NEGATIVE,))
TWO = Request(prompts=(SHORT, LONG), negatives=(LONG_NEGATIVE, SHORT_NEGATIVE))


@dataclass(frozen=True, slots=True)
class Case:
    """One row of the table.

    Args:
        check: None when all is right, else what is wrong.
        kinds: of architectures it applies to.
    """

    name: str
    check: Check
    kinds: tuple[str, ...] = ("attention", "recurrent", "encoder", "image")


def _on(request: Request, architecture: Architecture) -> Request:
    """The request for this architecture: an encoder's prompt is padded on the right, and a vision-language model has
    one prompt, with a picture in it."""
    if architecture.kind == "encoder":
        return dataclasses.replace(request, prompt_side="right")
    if architecture.kind != "image":
        return request
    return dataclasses.replace(
        request,
        prompts=(PICTURE + request.prompts[0],),
        negatives=request.negatives and request.negatives[:1],
        guides=request.guides and request.guides[:1],
    )


def _equals_oracle(request: Request) -> Check:
    def check(integration: Integration, architecture: Architecture, model: PreTrainedModel) -> str | None:
        asked = _on(request, architecture)
        got = integration.generate(model, asked)
        if asked.num_beams > 1:
            want = oracle.beams(model, asked)
        else:
            want = oracle.generate(model, asked, integration.draw)
        return oracle.differs(model, asked, got, want)

    return check


def _equal(left: Request, right: Request) -> Check:
    """Two requests that must give the same tokens."""

    def check(integration: Integration, architecture: Architecture, model: PreTrainedModel) -> str | None:
        one, other = _on(left, architecture), _on(right, architecture)
        return oracle.differs(model, other, integration.generate(model, one), integration.generate(model, other))

    return check


def _ends_early(integration: Integration, architecture: Architecture, model: PreTrainedModel) -> str | None:
    """The first of two rows ends in the middle, the other goes on."""
    free = _on(TWO, architecture)
    tokens = oracle.generate(model, free, integration.draw)[0]
    end = next((t for at, t in enumerate(tokens) if at >= 5 and t not in tokens[:at]), tokens[0])
    return _equals_oracle(dataclasses.replace(TWO, eos=(end,)))(integration, architecture, model)


def _identity(spread: float) -> Check:
    def check(integration: Integration, architecture: Architecture, model: PreTrainedModel) -> str | None:
        """A negative equal to the prompt changes nothing, in bfloat16 at any scale: not one bit of the scores."""
        lower = copy.deepcopy(model).to(torch.bfloat16)  # in place it would round the weights that others use
        base = _on(ONE, architecture)
        same = dataclasses.replace(base, negatives=base.prompts, guides=(Guide(scale=spread),))
        neutral = dataclasses.replace(base, negatives=base.prompts, guides=(Guide(scale=1.0),))
        if IMAGE in same.prompts[0]:
            raise NotOffered  # a negative is text only
        got, want = integration.generate(lower, same), integration.generate(lower, neutral)
        if got != want:
            return oracle.differs(lower, neutral, got, want) or "not the same tokens"
        with contextlib.suppress(NotOffered):
            for left, right in zip(integration.scores(lower, same), integration.scores(lower, neutral)):
                left, right = left.log_softmax(-1), right.log_softmax(-1)
                if not torch.equal(left, right):
                    return f"scores off by {float((left - right).abs().max()):.3g}"
        return None

    return check


def _ruled_out(integration: Integration, architecture: Architecture, model: PreTrainedModel) -> str | None:
    """Tokens at -inf in both branches stay there, and nothing becomes NaN."""
    with _without_tokens(model, range(30, 60)):
        if not next_logits(model, ONE.prompts[0], ())[30].isneginf():
            raise NotOffered  # the model bounds its logits after the head
        wrong = _equals_oracle(ONE)(integration, architecture, model)
        if wrong is None:
            with contextlib.suppress(NotOffered):
                for scores in integration.scores(model, _on(ONE, architecture)):
                    if scores.isnan().any() or not scores[:, 30:60].isneginf().all():
                        return "scores of a token at -inf"
        return wrong


@contextlib.contextmanager
def _without_tokens(model: PreTrainedModel, tokens: range) -> Iterator[None]:
    def rule_out(_module: torch.nn.Module, _args: tuple, out: torch.Tensor) -> torch.Tensor:
        out = out.clone()
        out[..., tokens.start : tokens.stop] = -torch.inf
        return out

    hook = model.get_output_embeddings().register_forward_hook(rule_out)
    try:
        yield
    finally:
        hook.remove()


def _normalised(integration: Integration, architecture: Architecture, model: PreTrainedModel) -> str | None:
    """Reported scores are log-probabilities: they sum to 1."""
    request = dataclasses.replace(_on(TWO, architecture), guides=(Guide(scale=5.0),))
    sums = torch.stack([step.exp().sum(-1) for step in integration.scores(model, request)])
    return (
        None
        if torch.allclose(sums, torch.ones_like(sums), atol=1e-4)
        else f"sum of exp(scores) {float(sums.max()):.4g}"
    )


def _small_prefill(integration: Integration, architecture: Architecture, model: PreTrainedModel) -> str | None:
    """No logits for all positions of a branch; the few of a trial forward are let pass."""
    if "logits_to_keep" not in inspect.signature(model.forward).parameters:
        raise NotOffered  # the model can't
    sizes: list[int] = []
    hook = model.get_output_embeddings().register_forward_hook(lambda _m, _a, out: sizes.append(out.shape[-2]))
    try:
        request = dataclasses.replace(ONE, prompts=(LONG,), negatives=(LONG_NEGATIVE,), max_tokens=2)
        integration.generate(model, _on(request, architecture))
    finally:
        hook.remove()
    return None if max(sizes) < len(LONG) else f"logits of {max(sizes)} positions at once"


def _scale_zero(integration: Integration, architecture: Architecture, model: PreTrainedModel) -> str | None:
    """Scale 0 is the negative's own continuation."""
    request = _on(dataclasses.replace(ONE, guides=(Guide(scale=0.0),)), architecture)
    alone = dataclasses.replace(
        request, prompts=request.negatives, negatives=request.prompts, guides=(Guide(scale=1.0),)
    )
    got = integration.generate(model, request)
    return oracle.differs(model, alone, got, oracle.generate(model, alone, integration.draw))


def _change(base: Request, **fields: object) -> Check:
    return _equals_oracle(dataclasses.replace(base, **fields))


GUIDES = (Guide(scale=1.5), Guide(scale=5.0, space="prob", plausibility=0.1))
EVEN = dataclasses.replace(TWO, prompts=(SHORT, LONG[:3]))
SHARED = dataclasses.replace(TWO, negatives=(NEGATIVE,))
DECODERS = ("attention", "recurrent")

CASES = {
    case.name: case
    for case in (
        Case("greedy, 64 tokens", _change(ONE, max_tokens=64)),
        Case("no negative: the last prompt token", _change(TWO, negatives=None), ("attention", "recurrent", "image")),
        Case("left-padded prompts and negatives", _equals_oracle(TWO)),
        Case("right-padded negatives", _change(TWO, negative_side="right")),
        Case("padded negatives without a mask", _change(TWO, negative_mask=False)),
        Case("right-padded negatives without a mask", _change(TWO, negative_side="right", negative_mask=False)),
        Case("right-padded prompts", _change(TWO, prompt_side="right"), DECODERS),
        Case("one negative for two prompts", _equals_oracle(SHARED)),
        Case("seeded sampling", _change(TWO, seed=11)),
        Case("several samples of a prompt", _change(SHARED, seed=12, num_samples=3)),
        Case("negatives expanded for samples", _change(SHARED, seed=12, num_samples=3, expanded=True)),
        Case("beams, one negative", _change(SHARED, num_beams=3, max_tokens=12)),
        Case("beams, a negative a prompt", _change(TWO, num_beams=3, num_samples=2, max_tokens=12)),
        Case("beams, prompts of one length", _change(EVEN, num_beams=3, max_tokens=12)),
        Case("beams, negatives expanded", _change(TWO, num_beams=3, expanded=True, max_tokens=12)),
        Case("assisted decoding", _change(ONE, draft="assistant")),
        Case(
            "prompt lookup",
            _change(dataclasses.replace(ONE, prompts=(LONG + SHORT + LONG,)), draft="lookup", max_tokens=40),
        ),
        Case("static cache", _change(TWO, static=True)),
        Case("a scale a row", _change(TWO, guides=(Guide(scale=1.5), Guide(scale=4.0)))),
        Case("a guide a row", _change(TWO, guides=GUIDES)),
        Case("prob space", _change(ONE, guides=(Guide(scale=4.0, space="prob"),))),
        Case("a negative without a scale", _change(ONE, guides=None)),
        Case("the prompt as embeddings", _change(TWO, embedded=True), DECODERS),
        Case("rows that end early", _ends_early),
        Case("a penalty after guidance", _change(ONE, repetition_penalty=1.3)),
        Case("bfloat16, negative equal to the prompt", _identity(5.0)),
        Case(
            "scale 1 is unguided",
            _equal(
                dataclasses.replace(ONE, guides=(Guide(scale=1.0),)),
                dataclasses.replace(ONE, negatives=(LONG_NEGATIVE,), guides=(Guide(scale=1.0),)),
            ),
        ),
        Case("scale 0 is the negative's own", _scale_zero, ("attention", "recurrent", "encoder", "image")),
        Case("a token at -inf", _ruled_out),
        Case("scores sum to 1", _normalised),
        Case("prefill without [batch, length, vocab]", _small_prefill),
        Case("the same object twice", _change(ONE, uses=2)),
    )
}


def outcome(case: Case, integration: Integration, architecture: Architecture) -> str:
    """One cell of the table: "right", "refused: …", "wrong: …", "error: …" or "-"."""
    if architecture.kind not in case.kinds:
        return "-"
    try:
        wrong = case.check(integration, architecture, architecture.model())
    except NotOffered:
        return "-"
    except Exception as error:  # noqa: BLE001 - whatever an integration raises is what the table shows
        kind = "refused" if isinstance(error, ValueError) else "error"
        return f"{kind}: {type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"
    return "right" if wrong is None else f"wrong: {wrong}"
