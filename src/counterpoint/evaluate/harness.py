"""A guided model for lm-evaluation-harness: `--model counterpoint --model_args pretrained=...,scale=1.5,space=prob`.

It is the harness' own `hf` model with guided scores and guided writing, so tokens, windows, truncation, chat templates
and caching are the harness'. Where the guide changes nothing (scale 1) the harness' own code runs.

Three ways to the harness' own command line, which knows no plug-ins:

    python -m counterpoint.evaluate --model counterpoint --tasks ...            # lm_eval with the model registered
    lm_eval --model counterpoint --tasks PATH/TO/counterpoint/evaluate/register.yaml,...    # the file registers it
    import counterpoint.evaluate.harness; lm_eval.simple_evaluate("counterpoint", ...)
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Sequence
from typing import Any, Literal

import torch
from lm_eval import utils
from lm_eval.api.registry import register_model
from lm_eval.models.utils import handle_stop_sequences, postprocess_generated_text
from tqdm import tqdm

from counterpoint.engine import Completion
from counterpoint.errors import GuideError, NoEffectWarning, PromptError, SamplingError
from counterpoint.evaluate.arguments import check_effects, check_options, sampling_arguments
from counterpoint.evaluate.chats import ChatTexts
from counterpoint.evaluate.loglikelihood import Item, score
from counterpoint.evaluate.opened import OpenedLM
from counterpoint.evaluate.writing import Passage, write
from counterpoint.guide import DEFAULT_SCALE, Guide, no_effect
from counterpoint.store import key_of

BRANCHES = ("last", "empty", "no-system")
logger = logging.getLogger(__name__)
Ids = tuple[int, ...]


@register_model("counterpoint")
class GuidedLM(OpenedLM):
    """The harness' `hf` model under guidance.

    Args:
        pretrained: what `counterpoint.load` takes, or a transformers model (then with `tokenizer`).
        scale, space, plausibility, gate, start, stop, adaptive: the fields of `Guide`; steps count the tokens of the
            continuation from 0. scale None is the package's default.
        branch: what the further branch reads. "last": the context's last token (Sanchez et al. 2023); "empty": the
            token that begins a text; "no-system": the chat without its system message. None: "no-system" for chats
            that have one, else "last".
        negative: a text for the further branch instead.
        seed: of sampled generations; request i uses seed + i.
        weights, compile: as in `counterpoint.load`.
        device: None is CUDA where there is one, else the CPU.
        dtype: "auto" is that of the weights, and float32 for the models that ship with the package.
        options: the other arguments of the harness' `hf` model.

    Raises:
        UsageError: an unknown argument, one that could have no effect, a guide out of range, or a branch that does not
            fit the task.
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
        weights: str | None = None,
        compile: bool | Literal["auto"] = "auto",
        device: str | None = None,
        dtype: str | torch.dtype | None = "auto",
        **options: Any,
    ) -> None:
        check_options(options, own=GuidedLM)
        guide = Guide(
            scale=DEFAULT_SCALE if scale is None else scale, space=space, plausibility=plausibility, gate=gate,
            start=start, stop=stop, adaptive=adaptive,
        )  # fmt: skip
        if branch is not None and negative is not None:
            raise GuideError(f"branch is {branch!r} and negative is {negative!r}; give one of them")
        if branch not in (None, *BRANCHES):
            raise GuideError(f"branch is {branch!r}; use one of {', '.join(BRANCHES)}, or negative=TEXT")
        self.guide, self.branch, self.seed = guide, branch, seed
        check_effects(options, compile=compile, is_unguided=self.is_unguided)
        super().__init__(pretrained, weights=weights, compile=compile, device=device, dtype=dtype, **options)
        self._scored_negatives: dict[Ids, Ids] = {}
        self.negative_ids: Ids | None = None if negative is None else self._read_negative(negative)
        self._without_system: dict[str, str] = {}
        self._chats: tuple[Any, ChatTexts] | None = None

    @property
    def is_unguided(self) -> bool:
        """Whether the guide changes nothing at all."""
        return self.guide.scale == 1 and not self.guide.plausibility

    def get_model_info(self) -> dict:
        branch = "negative text" if self.negative_ids is not None else self.branch or "last, or no-system for chats"
        return {**super().get_model_info(), "guide": self.guide.to_dict(), "branch": branch}

    def set_cache_hook(self, cache_hook) -> None:
        """Take the harness' cache of answers. Its own keys hold the request alone; here they hold all else that an
        answer depends on too."""
        super().set_cache_hook(cache_hook)
        answers = cache_hook.dbdict
        if answers is not None:
            weights = self.guided_model.fingerprint
            answers.encode_key = lambda key: f"{self._answers_of(weights)}:{key}"
            answers.decode_key = lambda key: key.rpartition(":")[2]

    def _answers_of(self, weights: str) -> str:
        """A key for everything besides the request that an answer depends on."""
        return key_of(
            "counterpoint", weights, str(self.guide), self.branch, self.negative_ids, self.seed, self.max_length,
            self.prefix_token_id, self.add_bos_token, str(self.tokenizer.chat_template), str(self.think_end_token),
        )  # fmt: skip

    def apply_chat_template(self, chat_history: list[dict[str, str]], add_generation_prompt: bool = True) -> str:
        """The chat as text, from which its system message can be taken out again.

        Raises:
            PromptError: the other branch is the chat without its system message, and that can't be made of the text.
        """
        rendered = super().apply_chat_template(chat_history, add_generation_prompt)
        rest = [message for message in chat_history if message["role"] != "system"]
        if self._swaps_system and 0 < len(rest) < len(chat_history):
            self._chat_texts().check(rendered, super().apply_chat_template(rest, add_generation_prompt))
        return rendered

    @property
    def _swaps_system(self) -> bool:
        """Whether the other branch of a chat is the chat without its system message."""
        return not self.is_unguided and self.negative_ids is None and self.branch in (None, "no-system")

    def _chat_texts(self) -> ChatTexts:
        """The chats of the tokenizer's template as it is now."""
        template = self.tokenizer.chat_template
        if self._chats is None or self._chats[0] != template:
            self._chats = (template, ChatTexts(super().apply_chat_template, self._without_system))
        return self._chats[1]

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
            negative = self._negative(text[0] if text else None, context, is_scored=True)
            items.append(self._item(context, continuation, negative))
        self._check_effect([(item.context, item.negative, len(item.continuation)) for item in items])
        cache_keys = [("loglikelihood", text) if text else None for text, _, _ in requests]
        return self.scores(items, cache_keys, disable_tqdm=disable_tqdm)

    def _check_effect(self, branches: Sequence[tuple[Ids, Ids | None, int]]) -> None:
        """Say it where guidance can change nothing, by the package's one verdict.

        Args:
            branches: of each request its context, the other branch's, and the most tokens that are scored or written.

        Raises:
            GuideError: so it is in all requests, since the branch is made of contexts that are empty or one token.
        """
        if self.guide.scale == 1:
            return
        verdicts = [
            no_effect(self.guide, (1 - self.guide.scale,), (negative,), context, num_tokens=num_tokens)
            for context, negative, num_tokens in branches
        ]
        found = [verdict for verdict in verdicts if verdict is not None]
        if not found:
            return
        told = f"guidance changes nothing in {len(found)} of {len(branches)} requests: {found[0]}"
        is_short = all(len(context) == 1 for context, *_ in branches)
        if len(found) == len(branches) and found[0].field == "negative" and (is_short or self.branch in BRANCHES[:2]):
            raise GuideError(f"{told}; guidance can change nothing after contexts this short, so give negative=TEXT")
        warnings.warn(NoEffectWarning(told), stacklevel=3)

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
        self._check_effect([(each.context, each.negative, each.arguments["max_tokens"]) for each in passages])
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
        """The guided text after each passage, without what it thought where the end of thinking is a token."""
        return [self._answer(done) for done in write(self.guided_model, passages, self.guide)]

    def _answer(self, done: Completion) -> str:
        end, ids = self.think_end_token, list(done.token_ids)
        if not isinstance(end, int) or end not in ids:
            return done.text
        return self.tok_decode(ids[len(ids) - ids[::-1].index(end) :]).lstrip()

    def _num_together(self) -> int:
        return self.batch_size if isinstance(self.batch_size, int) else 16

    def _read_negative(self, text: str) -> Ids:
        ids = tuple(self.tok_encode(text)) if text else ()
        if not ids:
            raise PromptError("negative is empty; give a text, or branch=empty for nothing")
        if len(ids) >= self.max_length:
            raise PromptError(f"negative has {len(ids)} tokens and the context holds {self.max_length}; shorten it")
        if text != text.rstrip():
            self._scored_negatives[ids] = self._encoded(text, is_scored=True)
        return ids

    def _encoded(self, text: str, *, is_scored: bool) -> Ids:
        """A context as the harness encodes it: before a continuation that is scored, white space at its end is left out,
        since it begins the continuation."""
        return tuple(self.tok_encode(text.rstrip() if is_scored else text))

    def _negative(self, text: str | None, context: Sequence[int], *, is_scored: bool = False) -> Ids:
        """What the further branch reads before the continuation."""
        if self.negative_ids is not None:
            ids = self._scored_negatives.get(self.negative_ids, self.negative_ids) if is_scored else self.negative_ids
            if not ids:
                raise PromptError("negative is white space, which scoring leaves to the continuation; give a word")
            return ids
        reads_chats = self.branch in (None, "no-system") and self.tokenizer.chat_template is not None
        bare = self._chat_texts().without_system(text) if text and reads_chats else None
        if self.branch == "no-system" and bare is None:
            raise GuideError(
                "the branch 'no-system' needs chats with a system message; run with --apply_chat_template and "
                "--system_instruction, or use another branch"
            )
        if self.branch == "empty":
            return (self.prefix_token_id,)
        if bare is None or self.branch == "last":
            return tuple(context[-1:])
        return self._encoded(bare, is_scored=is_scored)

    def _item(self, context: Sequence[int], continuation: Sequence[int], negative: Ids) -> Item:
        """An item that fits, cut from the left as the harness does."""
        tokens_left = self.max_length + 1 - len(continuation)
        if tokens_left < 1:
            raise PromptError(
                f"a continuation has {len(continuation)} tokens and the context holds {self.max_length}; shorten it"
            )
        if len(context) > tokens_left:
            logger.warning("A context of %d tokens is cut to its last %d to fit the model.", len(context), tokens_left)
        if self.negative_ids is not None and len(negative) > tokens_left:
            raise PromptError(
                f"negative has {len(negative)} tokens and a continuation of {len(continuation)} leaves {tokens_left}; "
                "shorten the negative"
            )
        return Item(tuple(context[-tokens_left:]), tuple(continuation), tuple(negative[-tokens_left:]))

    def _windows(self, ids: list[int]):
        lead = self.negative_ids
        windows = utils.get_rolling_token_windows(
            token_list=ids,
            prefix_token=self.prefix_token_id,
            max_seq_len=self.max_length - len(lead),
            context_len=1,
        )
        for number, window in enumerate(windows):
            context, continuation = utils.make_disjoint_window(window)
            read = () if number == 0 else tuple(context)  # the first window's context begins the text
            yield Item(tuple(context), tuple(continuation), (*lead, *read))

    def _passage(self, text: str, given: dict, *, seed: int) -> Passage:
        """A request to write, cut from the left as the harness does."""
        arguments = sampling_arguments(given, self.max_gen_toks)
        tokens_left = self.max_length - arguments["max_tokens"]
        if tokens_left < 1:
            raise SamplingError(
                f"max_gen_toks is {arguments['max_tokens']} and the context holds {self.max_length}; ask for less"
            )
        ids = self.tok_encode(text)
        if not ids:
            raise PromptError("a context to continue is empty; give every document a context")
        negative = self._negative(text, ids)
        return Passage(tuple(ids[-tokens_left:]), tuple(negative[-tokens_left:]), {**arguments, "seed": seed})


def registered() -> None:
    """Named by `register.yaml`: importing this module is what registers the model."""
