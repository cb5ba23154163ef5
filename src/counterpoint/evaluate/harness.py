"""A guided model for lm-evaluation-harness: `--model counterpoint --model_args pretrained=...,scale=1.5,space=prob`.

It is the harness' own `hf` model with guided scores and guided writing, so tokens, windows, truncation, chat templates
and caching are the harness'. Where the guide changes nothing (scale 1) the harness' own code runs.

Three ways to the harness' own command line, which knows no plug-ins:

    python -m counterpoint.evaluate --model counterpoint --tasks ...            # lm_eval with the model registered
    lm_eval --model counterpoint --tasks PATH/TO/counterpoint/evaluate/register.yaml,...    # the file registers it
    import counterpoint.evaluate.harness; lm_eval.simple_evaluate("counterpoint", ...)
"""

from __future__ import annotations

import difflib
import inspect
import logging
from collections.abc import Sequence
from typing import Any

from lm_eval import utils
from lm_eval.api.registry import register_model
from lm_eval.models.huggingface import HFLM
from lm_eval.models.utils import handle_stop_sequences, normalize_gen_kwargs, postprocess_generated_text
from tqdm import tqdm

from counterpoint.errors import GuideError, PromptError, SamplingError, UsageError
from counterpoint.evaluate.loglikelihood import Item, score
from counterpoint.evaluate.writing import Passage, write
from counterpoint.guide import DEFAULT_SCALE, Guide
from counterpoint.models.loading import BUNDLED
from counterpoint.models.model import Model

BRANCHES = ("last", "empty", "no-system")
SAMPLING_KEYS = ("temperature", "top_k", "top_p", "min_p", "repetition_penalty")
_MORE_OPTIONS = ("attn_implementation",)

logger = logging.getLogger(__name__)
Ids = tuple[int, ...]


@register_model("counterpoint")
class GuidedLM(HFLM):
    """The harness' `hf` model under guidance.

    Args:
        pretrained: "bundled", a folder, a hub id, or a transformers model (then with `tokenizer`).
        scale, space, plausibility, gate, start, stop, adaptive: the fields of `Guide`; steps count the tokens of the
            continuation from 0. scale None is the package's default.
        branch: what the further branch reads. "last": the context's last token (Sanchez et al. 2023); "empty": the
            token that begins a text; "no-system": the chat without its system message. None: "no-system" for chats
            that have one, else "last".
        negative: a text for the further branch instead.
        seed: of sampled generations; request i uses seed + i.
        options: the arguments of the harness' `hf` model.

    Raises:
        UsageError: an unknown argument, a guide out of range, or a branch that does not fit the task.
    """

    def __init__(
        self,
        pretrained: Any = "bundled",
        *,
        scale: float | None = None,
        space: str = "log",
        plausibility: float = 0.0,
        gate: float = 0.0,
        start: int = 0,
        stop: int | None = None,
        adaptive: str | None = None,
        branch: str | None = None,
        negative: str | None = None,
        seed: int = 0,
        **options: Any,
    ) -> None:
        _check_options(options)
        guide = Guide(
            scale=DEFAULT_SCALE if scale is None else scale,
            space=space,
            plausibility=plausibility,
            gate=gate,
            start=start,
            stop=stop,
            adaptive=adaptive,
        )
        if branch is not None and negative is not None:
            raise GuideError(f"branch is {branch!r} and negative is {negative!r}; give one of them")
        if branch is not None and branch not in BRANCHES:
            raise GuideError(f"branch is {branch!r}; use one of {', '.join(BRANCHES)}, or negative=TEXT")
        super().__init__(str(BUNDLED) if pretrained == "bundled" else pretrained, **options)
        if self.backend != "causal":
            raise UsageError(f"{pretrained} is an encoder-decoder, which this bridge can't guide; use a causal model")
        self.guide, self.branch, self.seed = guide, branch, seed
        name = pretrained if isinstance(pretrained, str) else type(pretrained).__name__
        self.guided_model = Model(self.model, self.tokenizer, name=name)
        self.negative_ids: Ids | None = None if negative is None else self._read_negative(negative)
        self._without_system: dict[str, str] = {}

    @property
    def is_unguided(self) -> bool:
        """Whether the guide changes nothing at all."""
        return self.guide.scale == 1 and not self.guide.plausibility

    def get_model_info(self) -> dict:
        branch = "negative text" if self.negative_ids is not None else self.branch or "last, or no-system for chats"
        return {**super().get_model_info(), "guide": self.guide.to_dict(), "branch": branch}

    def apply_chat_template(self, chat_history: list[dict[str, str]], add_generation_prompt: bool = True) -> str:
        """The chat as text; the same chat without its system message is remembered beside it."""
        rendered = super().apply_chat_template(chat_history, add_generation_prompt)
        rest = [message for message in chat_history if message["role"] != "system"]
        if 0 < len(rest) < len(chat_history):
            self._without_system[rendered] = super().apply_chat_template(rest, add_generation_prompt)
        return rendered

    def _loglikelihood_tokens(self, requests, disable_tqdm: bool = False, override_bs: int | None = None):
        """(log-likelihood, is greedy) of (texts, context ids, continuation ids)."""
        if self.is_unguided:
            return super()._loglikelihood_tokens(requests, disable_tqdm, override_bs)
        items = []
        for text, context, continuation in requests:
            if not continuation:
                raise PromptError(
                    f"the continuation {text[1]!r} melts into the last token of its context, so it has none of its own; "
                    "begin it with a space"
                )
            items.append(self._item(context, continuation, self._negative(text[0] if text else None, context)))
        cache_keys = [("loglikelihood", text) if text else None for text, _, _ in requests]
        return self.scores(items, cache_keys, disable_tqdm=disable_tqdm)

    def loglikelihood_rolling(self, requests, disable_tqdm: bool = False) -> list[float]:
        """Log-likelihoods of whole texts. The negative stands before the text in the further branch.

        Windows are as long as the negative leaves room for, so that both branches see the same text.

        Raises:
            GuideError: the branch is the beginning of a text itself, and so could change nothing.
        """
        if self.is_unguided:
            return super().loglikelihood_rolling(requests, disable_tqdm)
        if self.negative_ids is None:
            raise GuideError(
                f"the task scores whole texts, where the branch {self.branch or 'last'!r} reads what the text begins with "
                "and changes nothing; give negative=TEXT, or scale=1"
            )
        items, counts = [], []
        for (text,) in (request.args for request in requests):
            windows = list(self._windows(self.tok_encode(text)))
            items += windows
            counts.append(len(windows))
        values = iter(self.scores(items, [None] * len(items), disable_tqdm=disable_tqdm))
        totals = []
        for request, count in zip(requests, counts):
            totals.append(sum(next(values)[0] for _ in range(count)))
            self.cache_hook.add_partial("loglikelihood_rolling", request.args, totals[-1])
        return totals

    def generate_until(self, requests, disable_tqdm: bool = False) -> list[str]:
        """Guided continuations."""
        if self.is_unguided:
            return super().generate_until(requests, disable_tqdm)
        end = self.tok_decode(self.eot_token_id, skip_special_tokens=False)
        think = self.think_end_token if isinstance(self.think_end_token, str) else None
        passages = [self._passage(*request.args, seed=self.seed + number) for number, request in enumerate(requests)]
        texts = []
        bar = tqdm(total=len(requests), disable=disable_tqdm or self.rank != 0, desc="Running generate_until requests")
        for at in range(0, len(passages), self._num_together()):
            batch = slice(at, at + self._num_together())
            for passage, request, text in zip(passages[batch], requests[batch], self.write(passages[batch])):
                until = handle_stop_sequences(list(passage.arguments["stop"]), eos=end)
                texts.append(postprocess_generated_text(text, until, think))
                self.cache_hook.add_partial("generate_until", request.args, texts[-1])
                bar.update()
        bar.close()
        return texts

    def scores(
        self, items: Sequence[Item], cache_keys: Sequence[tuple | None], *, disable_tqdm: bool = False
    ) -> list[tuple[float, bool]]:
        """(log-likelihood, is greedy) of each item; the harness' cache is told where there is a key for it."""
        bar = tqdm(total=len(items), disable=disable_tqdm or self.rank != 0, desc="Running loglikelihood requests")

        def tell(numbers, batch) -> None:
            for number, (result,) in zip(numbers, batch):
                if cache_keys[number] is not None:
                    self.cache_hook.add_partial(*cache_keys[number], (result.logprob, result.is_greedy))
            bar.update(len(numbers))

        results = score(self.guided_model, items, [self.guide], batch_size=self._num_together(), on_batch=tell)
        bar.close()
        return [(result.logprob, result.is_greedy) for (result,) in results]

    def write(self, passages: Sequence[Passage]) -> list[str]:
        """The guided text after each passage."""
        return [done.text for done in write(self.guided_model, passages, self.guide)]

    def _num_together(self) -> int:
        return self.batch_size if isinstance(self.batch_size, int) else 16

    def _read_negative(self, text: str) -> Ids:
        ids = tuple(self.tok_encode(text)) if text else ()
        if not ids:
            raise PromptError("negative is empty; give a text, or branch=empty for nothing")
        if len(ids) >= self.max_length:
            raise PromptError(f"negative has {len(ids)} tokens and the context holds {self.max_length}; shorten it")
        return ids

    def _negative(self, text: str | None, context: Sequence[int]) -> Ids:
        """What the further branch reads before the continuation."""
        if self.negative_ids is not None:
            return self.negative_ids
        bare = None if text is None else self._bare(text)
        if self.branch == "no-system" and bare is None:
            raise GuideError(
                "the branch 'no-system' needs chats with a system message; run with --apply_chat_template and "
                "--system_instruction, or use another branch"
            )
        if self.branch == "empty":
            return (self.prefix_token_id,)
        return tuple(context[-1:]) if bare is None or self.branch == "last" else tuple(self.tok_encode(bare))

    def _bare(self, text: str) -> str | None:
        """The chat without its system message, and with what the task appended to it; None where there is none."""
        if text in self._without_system:
            return self._without_system[text]
        starts = [rendered for rendered in self._without_system if text.startswith(rendered)]
        longest = max(starts, key=len, default=None)
        return None if longest is None else self._without_system[longest] + text[len(longest) :]

    def _item(self, context: Sequence[int], continuation: Sequence[int], negative: Ids) -> Item:
        """An item that fits, cut from the left as the harness does."""
        room = self.max_length + 1 - len(continuation)
        if len(context) > room:
            logger.warning("A context of %d tokens is cut to its last %d to fit the model.", len(context), room)
        if self.negative_ids is not None and len(negative) > room:
            raise PromptError(
                f"negative has {len(negative)} tokens and a continuation of {len(continuation)} leaves room for {room}; "
                "shorten the negative"
            )
        return Item(tuple(context[-room:]), tuple(continuation), tuple(negative[-room:]))

    def _windows(self, ids: list[int]):
        lead = self.negative_ids
        windows = utils.get_rolling_token_windows(
            token_list=ids,
            prefix_token=self.prefix_token_id,
            max_seq_len=self.max_length + 1 - len(lead),
            context_len=1,
        )
        for number, window in enumerate(windows):
            context, continuation = utils.make_disjoint_window(window)
            read = () if number == 0 else tuple(context)  # the first window's context begins the text
            yield Item(tuple(context), tuple(continuation), (*lead, *read))

    def _passage(self, text: str, given: dict, *, seed: int) -> Passage:
        """A request to write, cut from the left as the harness does."""
        wanted = normalize_gen_kwargs(given, self.max_gen_toks)
        arguments: dict[str, Any] = {"max_tokens": wanted.pop("max_gen_toks"), "stop": tuple(wanted.pop("until", ()))}
        is_sampled = wanted.pop("do_sample")
        for key in SAMPLING_KEYS:
            if key in wanted:
                arguments[key] = wanted.pop(key)
        if not is_sampled:
            arguments["temperature"] = 0.0
        if wanted:
            raise SamplingError(
                f"generation argument {min(wanted)!r} is not known; known are do_sample, until, max_gen_toks, "
                f"{', '.join(SAMPLING_KEYS)}"
            )
        room = self.max_length - arguments["max_tokens"]
        if room < 1:
            raise SamplingError(
                f"max_gen_toks is {arguments['max_tokens']} and the context holds {self.max_length}; ask for less"
            )
        ids = self.tok_encode(text)
        if not ids:
            raise PromptError("a context to continue is empty; give every document a context")
        negative = self._negative(text, ids)
        return Passage(tuple(ids[-room:]), tuple(negative[-room:]), {**arguments, "seed": seed})


def _check_options(options: dict[str, Any]) -> None:
    known = [*inspect.signature(HFLM.__init__).parameters, *_MORE_OPTIONS]
    own = [name for name in inspect.signature(GuidedLM.__init__).parameters if name not in ("self", "options")]
    for name in options:
        if name not in known:
            close = difflib.get_close_matches(name, [*own, *known], n=1)
            raise UsageError(
                f"unknown model argument {name!r}; "
                + (f"did you mean {close[0]!r}?" if close else f"its own are {', '.join(own)}")
            )


def registered() -> None:
    """Named by `register.yaml`: importing this module is what registers the model."""
