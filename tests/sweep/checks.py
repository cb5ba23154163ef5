"""What is checked of every class: the engine and `custom_generate` against a loop without any state."""

from __future__ import annotations

import copy
import functools
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedModel, StoppingCriteria, StoppingCriteriaList

from counterpoint.engine.generate import generate as engine_generate
from counterpoint.errors import UsageError
from counterpoint.guide import Guide
from counterpoint.models.model import Model
from counterpoint.transformers import generate
from sweep.oracle import BEAMS, Oracle, TokenIds
from sweep.shrink import PAD, small_model

Rows = Sequence[TokenIds]

NEAR = 2e-3  # of log-probabilities; two that are nearer may change places between two ways to compute them
NEW, NEW_BEAMS = 16, 6


def _text(length: int, seed: int) -> TokenIds:
    """Token ids that are neither special nor the placeholder of a picture."""
    source = torch.Generator().manual_seed(seed)
    return tuple(torch.randint(3, 185, (length,), generator=source).tolist())


# Lengths on both sides of a window of 8 and of a rope's original length of 32; the new tokens cross them.
P5, P9, Q9, P20, P28, P37 = (_text(n, seed) for seed, n in enumerate((5, 9, 9, 20, 28, 37)))
N3, N7, N12, N30 = (_text(n, 10 + seed) for seed, n in enumerate((3, 7, 12, 30)))
SHARED = P20 + N3  # begins as the prompt does
P100, N90 = _text(100, 20), _text(90, 21)  # what an encoder reads: block-sparse attention begins to act at 56
AGAIN = P9 + P5 + P9 + P5 + P9[:4]  # repeats itself, for drafts
GUIDE = Guide(scale=3.0)
GUIDES = (
    Guide(scale=1.5),
    Guide(scale=5.0, space="prob", plausibility=0.1),
    Guide(scale=2.5, start=2),
    Guide(scale=4.0, gate=1.0),
)


class Wrong(Exception):
    """A result differs from the oracle's."""


class Theirs(Exception):
    """transformers' own `generate` of the same call fails in the same way, without us, or never calls what it is given."""


@dataclass(frozen=True, slots=True)
class Check:
    """One column of the table.

    Args:
        run: raises `Wrong`; a `ValueError` where it is refused.
        kinds: of classes it applies to: "causal", "encoder" or "image".
    """

    name: str
    run: Callable[[PreTrainedModel, Oracle], None]
    kinds: tuple[str, ...] = ("causal", "encoder", "image")


def compare(
    oracle: Oracle, prompts: Rows, negatives: Rows, guides: Sequence[Guide], got: Rows, length: int = NEW
) -> None:
    if len(got) != len(prompts):
        raise Wrong(f"{len(got)} rows in place of {len(prompts)}")
    for row, (prompt, negative, guide, tokens) in enumerate(zip(prompts, negatives, guides, got)):
        if len(tokens) != length:
            raise Wrong(f"row {row} has {len(tokens)} tokens in place of {length}")
        gap = oracle.gap(prompt, negative, tokens, guide)
        if not gap <= NEAR:
            raise Wrong(f"row {row} is off by {gap:.3g} nats")


# The engine.


def _engine(
    oracle: Oracle, model: Model, prompts: Rows, negatives: Rows, guides: Sequence[Guide], *, n: int = 1, **more: Any
) -> None:
    done = engine_generate(
        model,
        [list(prompt) for prompt in prompts],
        negative=[list(negative) for negative in negatives],
        guide=list(guides),
        max_tokens=NEW,
        temperature=0.0,
        logprobs=0,
        n=n,
        **more,
    )
    prompts, negatives, guides = ([one for one in many for _ in range(n)] for many in (prompts, negatives, guides))
    compare(oracle, prompts, negatives, guides, [completion.token_ids for completion in done])
    for row, (prompt, negative, guide, completion) in enumerate(zip(prompts, negatives, guides, done)):
        for step, told in enumerate(completion.logprobs):
            want = oracle.logprobs(prompt, negative, completion.token_ids[:step], guide)[told.token_id]
            if not abs(told.logprob - float(want)) <= 10 * NEAR:
                raise Wrong(f"row {row} reports a log-probability off by {abs(told.logprob - float(want)):.3g}")


def _alone(model: PreTrainedModel, oracle: Oracle) -> None:
    """Long, then short: nothing may stay behind of what was read before."""
    ours = Model(model, compile=False)
    _engine(oracle, ours, [P28], [N12], [GUIDE])
    _engine(oracle, ours, [P5], [N30], [GUIDE])


def _ragged(model: PreTrainedModel, oracle: Oracle) -> None:
    _engine(oracle, Model(model), [P5, P20, P9, P37], [N30, N3, N12, N7], GUIDES)


def _shared(model: PreTrainedModel, oracle: Oracle) -> None:
    _engine(oracle, Model(model), [P20 + P5], [SHARED], [GUIDE], n=2)


def _drafts(model: PreTrainedModel, oracle: Oracle) -> None:
    _engine(oracle, Model(model), [AGAIN, P5], [N12, N7], [GUIDE, GUIDE], draft_tokens=3)


# transformers.


class _Count(StoppingCriteria):
    """Counts the tokens, so that a refusal after the first one is found out."""

    steps = 0

    def __call__(self, input_ids: Tensor, scores: object, **_: object) -> Tensor:
        self.steps += 1
        return torch.zeros(len(input_ids), dtype=torch.bool, device=input_ids.device)


def _padded(rows: Rows, *, left: bool = True) -> tuple[Tensor, Tensor]:
    width = max(map(len, rows))
    gaps = [width - len(row) for row in rows]
    ids = [(PAD,) * gap + row if left else row + (PAD,) * gap for row, gap in zip(rows, gaps)]
    mask = [(0,) * g + (1,) * (width - g) if left else (1,) * (width - g) + (0,) * g for g in gaps]
    return torch.tensor(ids), torch.tensor(mask)


def _ask(model: PreTrainedModel, prompts: Rows, negatives: Rows, *, masked: bool = True, **more: Any) -> Any:
    is_encoder = model.config.is_encoder_decoder
    was_called = False

    @functools.wraps(generate)  # transformers looks at its parameters
    def ours(*args: Any, **kwargs: Any) -> Any:
        nonlocal was_called
        was_called = True
        return generate(*args, **kwargs)

    ids, mask = _padded(prompts, left=not is_encoder)
    negative_ids, negative_mask = _padded(negatives)
    arguments: dict[str, Any] = {
        "input_ids": ids,
        "negative_prompt_ids": negative_ids,
        "negative_prompt_attention_mask": negative_mask,
        "max_new_tokens": NEW,
        "do_sample": False,
        "guide": GUIDE,
        "custom_generate": ours,
        **more,
    }
    if masked:
        arguments["attention_mask"] = mask
    count = _Count()
    try:
        out = model.generate(stopping_criteria=StoppingCriteriaList([count]), **arguments)
    except ValueError as error:
        if count.steps:
            raise RuntimeError(f"after {count.steps} tokens: {error}") from error
        raise
    except Exception as error:
        if _fails_alike(model, arguments, error):
            raise Theirs(f"{type(error).__name__}: {_line(error)}") from error
        raise
    if not was_called:
        raise Theirs(f"the generate of {type(model).__name__} calls no custom_generate and says nothing of it")
    return out


def _fails_alike(model: PreTrainedModel, arguments: dict[str, Any], error: Exception) -> bool:
    """Whether transformers' own `generate` raises the same without guidance."""
    ours = {"negative_prompt_ids", "negative_prompt_attention_mask", "guide", "custom_generate"}
    try:
        model.generate(**{name: value for name, value in arguments.items() if name not in ours})
    except Exception as own:  # noqa: BLE001 - whatever it is, it is compared
        return type(own) is type(error) and str(own) == str(error)
    return False


def _tokens(model: PreTrainedModel, out: Tensor, prompts: Rows) -> list[TokenIds]:
    width = 1 if model.config.is_encoder_decoder else max(map(len, prompts))
    return [tuple(row[width:]) for row in out.tolist()]


def _asked(prompts: Rows, negatives: Rows, **more: Any) -> Callable[[PreTrainedModel, Oracle], None]:
    def run(model: PreTrainedModel, oracle: Oracle) -> None:
        out = _ask(model, prompts, negatives, **more)
        new = more.get("max_new_tokens", NEW)
        compare(oracle, prompts, negatives, [GUIDE] * len(prompts), _tokens(model, out, prompts), new)

    return run


def _pads_with_end(model: PreTrainedModel, oracle: Oracle) -> None:
    """A padding token that ends texts too: a text can hold it as well, so that only a mask tells them apart."""
    prompts, negatives = [P5, P20], [N12, N12]
    ends = {"eos_token_id": PAD, "pad_token_id": PAD}
    try:
        _ask(model, prompts, negatives, masked=False, **ends)
    except UsageError as error:
        if "attention_mask" not in str(error):
            raise
    else:
        raise Wrong("padding is read as text")
    out = _ask(model, prompts, negatives, **ends)
    got = [row[: row.index(PAD) + 1] if PAD in row else row for row in _tokens(model, out, prompts)]
    for prompt, negative, tokens in zip(prompts, negatives, got):
        if not (gap := oracle.gap(prompt, negative, tokens, GUIDE)) <= NEAR:
            raise Wrong(f"off by {gap:.3g} nats")


def _beams(prompts: Rows, negatives: Rows) -> Callable[[PreTrainedModel, Oracle], None]:
    def run(model: PreTrainedModel, oracle: Oracle) -> None:
        out = _ask(model, prompts, negatives, num_beams=BEAMS, max_new_tokens=NEW_BEAMS)
        for row, (prompt, negative, got) in enumerate(zip(prompts, negatives, _tokens(model, out, prompts))):
            if len(got) != NEW_BEAMS:
                raise Wrong(f"row {row} has {len(got)} tokens in place of {NEW_BEAMS}")
            want = oracle.best_beams(prompt, negative, GUIDE, NEW_BEAMS)
            total = oracle.total(prompt, negative, got, GUIDE)
            if not abs(want - total) <= 2 * NEAR:
                raise Wrong(f"beams of row {row} are off by {abs(want - total):.3g} nats")

    return run


def _output(model: PreTrainedModel, oracle: Oracle) -> None:
    prompts, negatives = [P9, Q9], [N12, N3]
    out = _ask(model, prompts, negatives, return_dict_in_generate=True, output_scores=True, output_logits=True)
    got = _tokens(model, out.sequences, prompts)
    compare(oracle, prompts, negatives, [GUIDE] * 2, got)
    for step, (scores, logits) in enumerate(zip(out.scores, out.logits)):
        for row, (prompt, negative) in enumerate(zip(prompts, negatives)):
            want = oracle.logprobs(prompt, negative, got[row][:step], GUIDE)
            kept = want > want.max() - 20  # below, rounding of both branches counts three times
            if not (off := float((scores[row] - want)[kept].abs().max())) <= 0.05:
                raise Wrong(f"scores of token {step} are off by {off:.3g}")
            plain = oracle.logits(prompt, got[row][:step])
            if not (off := float((logits[row] - plain).nan_to_num(0, 0, 0).abs().max())) <= 0.05:
                raise Wrong(f"logits of token {step} are off by {off:.3g}")


def _states(model: PreTrainedModel, oracle: Oracle) -> None:
    prompts, negatives = [P9, Q9], [N12, N3]
    out = _ask(model, prompts, negatives, return_dict_in_generate=True, output_hidden_states=True)
    compare(oracle, prompts, negatives, [GUIDE] * 2, _tokens(model, out.sequences, prompts))
    states = out.decoder_hidden_states if model.config.is_encoder_decoder else out.hidden_states
    if states is None or len(states) != NEW:
        raise Wrong("no hidden states")


def _assisted(model: PreTrainedModel, oracle: Oracle) -> None:
    """By the model itself, which guesses what guidance then changes; a text's model has an assistant of another class."""
    assistant = model
    if not model.config.is_encoder_decoder:
        changes = {"vocab_size": model.config.get_text_config().vocab_size}
        assistant = small_model(LlamaForCausalLM, LlamaConfig, changes=changes)
    _asked([P20], [N7], assistant_model=assistant)(model, oracle)


CHECKS = {
    check.name: check
    for check in (
        Check("engine", _alone, ("causal",)),
        Check("engine, ragged batch", _ragged, ("causal",)),
        Check("engine, shared beginnings", _shared, ("causal",)),
        Check("engine, drafts", _drafts, ("causal",)),
        Check("padded prompts", _asked([P5, P20], [N30, N3])),
        Check("long prompts, padded", _asked([P100, P20], [N7, N90]), ("encoder",)),
        Check("a long prompt", _asked([P100], [N90], max_new_tokens=40), ("encoder",)),
        Check("prompts of one length", _asked([P9, Q9], [N12, N3])),
        Check("prompts without a mask", _asked([P5, P20], [N12, N12], masked=False), ("causal", "image")),
        Check("padding that ends texts", _pads_with_end, ("causal", "image")),
        Check("beams, padded", _beams([P5, P20], [N12, N3])),
        Check("beams", _beams([P9, Q9], [N12, N3])),
        Check("assisted decoding", _assisted),
        Check("prompt lookup", _asked([AGAIN], [N7], prompt_lookup_num_tokens=3)),
        Check("static cache", _asked([P9, Q9], [N12, N3], cache_implementation="static")),
        Check("output object", _output),
        Check("hidden states", _states),
    )
}  # fmt: skip


def outcome(check: Check, model: PreTrainedModel, oracle: Oracle) -> str:
    """ "right", "refused: …", "wrong: …", "crash: …", or "theirs: …" where transformers fails by itself."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            check.run(copy.deepcopy(model) if model.config.is_encoder_decoder else model, oracle)
        except Wrong as error:
            return f"wrong: {error}"
        except Theirs as error:
            return f"theirs: {error}"
        except ValueError as error:
            return f"refused: {_line(error)}"
        except Exception as error:  # noqa: BLE001 - whatever is raised is what the table shows
            return f"crash: {type(error).__name__}: {_line(error)}"
    return "right"


def _line(error: Exception) -> str:
    text = str(error).strip()
    return text.splitlines()[0][:300] if text else type(error).__name__
