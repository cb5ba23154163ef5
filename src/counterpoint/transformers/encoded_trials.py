"""What an encoder-decoder can do, found by trial: on its twin, with texts long enough for windows and blocks to act."""

from __future__ import annotations

from collections.abc import Callable
from weakref import WeakKeyDictionary, ref

import torch
from torch import Tensor
from transformers import PreTrainedModel

from counterpoint.models.close import is_close, is_within
from counterpoint.models.ids import num_ids
from counterpoint.models.traces import unswitched
from counterpoint.models.trials.course import AFTER, FAR
from counterpoint.models.trials.own_loop import LoopCall, Written
from counterpoint.models.trials.texts import TWIN_TOLERANCE, plain_ids
from counterpoint.models.trials.twin import twin_of
from counterpoint.models.trials.undisturbed import undisturbed
from counterpoint.transformers.encoded import EncodedHistories, TokenIds

LEAST = 6  # tokens of a text
NEW = 5  # tokens that are written
BLOCKS = 12  # of the shortest window: some attend by blocks only where a text has many

_TRIALS: WeakKeyDictionary[PreTrainedModel, EncodedTrials] = WeakKeyDictionary()


def encoded_trials(model: PreTrainedModel) -> EncodedTrials:
    """The trials of an encoder-decoder, made once."""
    if model not in _TRIALS:
        with undisturbed():
            _TRIALS[model] = EncodedTrials(model)
    return _TRIALS[model]


class EncodedTrials:
    """Each is made when its answer is first asked for; no, where it fails.

    Args:
        model: an encoder-decoder of transformers. It is tried itself, on short texts, where it has no twin.
    """

    def __init__(self, model: PreTrainedModel) -> None:
        twin = twin_of(model)
        self._is_twin = twin is not None
        # A model that is tried itself must not be kept alive by what is known of it.
        kept = None if twin is None else twin.model
        self._model: Callable[[], PreTrainedModel] = ref(model) if kept is None else lambda: kept
        marks = [] if twin is None else sorted(twin.lengths)
        #: of what the encoder reads
        self._lengths = [LEAST, *(mark + AFTER for mark in marks), *(BLOCKS * mark + AFTER for mark in marks[:1])]
        self._num_written = max([NEW, *(mark + FAR for mark in marks)])
        ids = plain_ids(self._model())
        self._long, self._short, self._written, self._other = (
            tuple(ids[(a * at * at + b * at + a) % len(ids)] for at in range(self._lengths[-1] + self._num_written))
            for a, b in ((7, 3), (5, 11), (3, 7), (11, 5))
        )
        own = model.generation_config
        start = own.bos_token_id if own.decoder_start_token_id is None else own.decoder_start_token_id
        self._start = min(1 if start is None else start, num_ids(self._model()) - 1)
        self._pad = min(own.pad_token_id or 0, num_ids(self._model()) - 1)
        self._found: dict[LoopCall | None, bool] = {}
        self._known: dict[tuple[TokenIds, TokenIds], Tensor] = {}

    def continues(self) -> bool:
        """Whether it predicts with its cache what it predicts without."""
        return self._ask(None, self._continues)

    def writes(self, call: LoopCall) -> bool:
        """Whether transformers' own loop is right on calls of this kind."""
        return self._ask(call, lambda: all(self._writes(call, length) for length in self._lengths))

    def _ask(self, what: LoopCall | None, trial: Callable[[], bool]) -> bool:
        if what not in self._found:
            model = self._model()
            try:
                with undisturbed(model), unswitched(model):
                    self._found[what] = trial()
            except Exception:  # any failure of the trial means that this model's forward is of another kind
                self._found[what] = False
        return self._found[what]

    def _continues(self) -> bool:
        for number, length in enumerate(self._lengths):
            texts = self._texts(length)
            read = EncodedHistories(self._model(), texts)
            count = NEW if number else self._num_written
            wholes = [self._written[:count], self._other[:count]]
            for step in range(1, count + 1):
                got = read.logits([(text, whole[:step]) for text, whole in zip(texts, wholes)])
                if not all(map(self._agrees, got, texts, [step] * 2, wholes)):
                    return False
        return True

    def _writes(self, call: LoopCall, length: int) -> bool:
        model, texts = self._model(), self._texts(length, alike=not call.padded)
        texts = texts[-call.num_rows :] if call.padded else texts[: call.num_rows]
        gaps = [((0,) * (length - len(text)), (1,) * len(text)) for text in texts]
        pads = [((self._pad,) * len(gap), text) for (gap, _), text in zip(gaps, texts)]
        ids, mask = ([left + right if call.left else right + left for left, right in rows] for rows in (pads, gaps))
        out = model.generate(
            input_ids=torch.tensor(ids, device=model.device),
            attention_mask=torch.tensor(mask, device=model.device),
            generation_config=call.settings(
                NEW,
                decoder_start_token_id=self._start,
                bos_token_id=self._start,
                pad_token_id=self._pad,
                suppress_tokens=[self._pad],  # some take it for padding where they read it again
            ),
            eos_token_id=None,
        )
        start = out.sequences.shape[1] - len(out.logits)
        rows = [tuple(row) for row in out.sequences.tolist()]
        written = Written(rows, [start] * len(rows), list(torch.stack(out.logits, dim=1)))
        found = written.first_difference(lambda at, got, ids, row: self._agrees(got, texts[at], len(ids), row))
        return found is None

    def _texts(self, length: int, *, alike: bool = False) -> list[TokenIds]:
        """Two texts, the other one shorter by a third or as long."""
        return [self._long[:length], self._short[: length if alike else length * 2 // 3]]

    def _agrees(self, got: Tensor, text: TokenIds, step: int, whole: TokenIds) -> bool:
        """Whether these are the logits after `step` tokens of what is written for a text, by a forward without a cache."""
        return self._alike(got, self._alone(text, whole)[step - 1]) or self._alike(
            got, self._alone(text, whole[:step])[-1]
        )

    def _alike(self, got: Tensor, want: Tensor) -> bool:
        return is_within(got, want, TWIN_TOLERANCE) if self._is_twin else is_close(got, want)

    def _alone(self, text: TokenIds, written: TokenIds) -> Tensor:
        """Logits (L, V) along what was written for a text, from one forward without a cache."""
        if (text, written) not in self._known:
            model = self._model()
            with unswitched(model):
                out = model(
                    input_ids=torch.tensor([text], device=model.device),
                    decoder_input_ids=torch.tensor([written], device=model.device),
                    use_cache=False,
                    return_dict=True,
                )
            self._known[text, written] = out.logits[0]
        return self._known[text, written]
