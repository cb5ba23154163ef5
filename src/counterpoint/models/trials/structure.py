"""What the code of a model's class does with its kind of config, found on a twin: nothing here depends on weights."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from transformers import GenerationConfig

from counterpoint.models.attention import FewQueries
from counterpoint.models.padded import PaddedHistories
from counterpoint.models.ragged import RaggedRows
from counterpoint.models.rows import Rows
from counterpoint.models.separate import Manner, SeparateRows
from counterpoint.models.trials.course import AFTER, FAR, Difference, cut, go_on, grow, leap, runs
from counterpoint.models.trials.texts import Texts, TokenIds
from counterpoint.models.trials.twin import Twin

LEAST_TEXT = 8  # tokens
NEW = 3  # tokens that transformers' own loop writes in its trial
ANEW = Manner(positions=False, mask=False, several=False, crops=False, anew_from=0)


@dataclass(frozen=True, slots=True)
class Answer:
    """Whether a model can do something, and else why not.

    Args:
        upto: row length in tokens up to which it can; None for any.
    """

    ok: bool
    reason: str = ""
    upto: int | None = None

    def __bool__(self) -> bool:
        return self.ok

    def holds(self, limit: int | None) -> bool:
        """Whether it can for every row that is no longer than `limit`; None is no limit."""
        return self.ok and (self.upto is None or (limit is not None and limit <= self.upto))


YES = Answer(True)


class Structure:
    """The trials of one twin, each run when first asked for.

    Args:
        twin: the twin.
    """

    def __init__(self, twin: Twin) -> None:
        self._model, self._lengths = twin.model, twin.lengths
        self._limits = {**twin.tables, **twin.lengths}
        self._small = {real: mark for mark, real in twin.lengths.items()}
        self._joint: dict[bool, Answer] = {}
        self._texts = Texts(
            twin.model,
            max([LEAST_TEXT, *(mark + AFTER for mark in twin.tables), *(mark + FAR for mark in twin.lengths)]),
            is_twin=True,
        )
        self._longest = 0
        self._texts.find_traces(self._find_longest)
        self._is_bounded = 0 < self._longest < len(self._texts.long)
        self._texts.shorten(self._longest)
        self._marks = [mark for mark in sorted(twin.lengths) if mark <= self._longest]

    @torch.no_grad()
    def _find_longest(self) -> None:
        """Find how many tokens the twin's own forward reads without failing."""
        long = self._texts.long
        ends = sorted({len(long), *(mark + by for mark in self._limits for by in (0, 1))}, reverse=True)
        for end in ends:
            for length in range(end, max(end - 4, 0), -1):
                if length <= len(long) and self._reads(long[:length]):
                    self._longest = length
                    return

    def _reads(self, ids: TokenIds) -> bool:
        try:
            self._texts.read(ids)
        except Exception:  # of whatever kind: past the end of a table, for one
            return False
        return True

    @functools.cached_property
    def context_len(self) -> int | None:
        """Tokens past which the model's own forward fails; None where none is known."""
        if not self._is_bounded:
            return None
        mark = min((m for m in self._limits if m >= self._longest), default=None)
        return None if mark is None else self._limits[mark] + self._longest - mark

    @property
    def traces(self):
        """What a forward leaves on the modules."""
        return self._texts.traces

    @functools.cached_property
    def causal(self) -> Answer:
        """Whether what is predicted after a token depends on no later one."""
        long = self._texts.long

        def trial() -> Answer:
            early = self._texts.along(long[: LEAST_TEXT - 2], [3])[0]
            if self._texts.agrees(early, long[:3]):
                return YES
            return Answer(False, "it is not causal: what it predicts after a token depends on later ones")

        return self._ask(trial)

    def joint(self, kernels: bool) -> Answer:
        """Whether rows of any lengths go through one forward, with or without our attention."""
        if kernels not in self._joint:
            self._joint[kernels] = self._ask(lambda: self._try_joint(kernels))
        return self._joint[kernels]

    def _try_joint(self, kernels: bool) -> Answer:
        def new_rows() -> Rows:
            return RaggedRows(self._model, attention=FewQueries(self._model, compiled=kernels))

        grown = self._verdict(lambda: self._read(new_rows()))
        if not grown:
            return grown
        upto = self._longest if grown.upto is None else self._small[grown.upto]
        forked = self._verdict(lambda: cut(new_rows(), self._texts, runs(self._marks, upto)))
        return grown if forked == YES else Answer(False, forked.reason)

    @functools.cached_property
    def manner(self) -> Manner:
        """How rows are read one by one. `ANEW` where no cache of the model's can be relied on."""
        with torch.no_grad():
            return self._find_manner()

    def _find_manner(self) -> Manner:
        styles = [(True, False), (False, False), (False, True), (True, True)]
        for positions, mask in styles:
            for several in (True, False):
                manner = self._fitted(Manner(positions, mask, several, crops=False, traces=self.traces))
                if manner is not None:
                    return replace(manner, crops=self._crops(manner))
        return replace(ANEW, traces=self.traces)

    def _fitted(self, manner: Manner) -> Manner | None:
        """A manner with the lengths at which rows have to be read anew; None where it does not do even so."""
        for _ in range(2 * len(self._marks) + 1):
            try:
                found = self._grow(manner)
            except Exception:  # of whatever kind: this is no way to call the model
                return None
            if found is None:
                return manner
            mark = self._mark_before(found.length)
            if mark is None or mark == manner.anew_from:
                return None
            real = self._lengths[mark]
            if real in manner.anew_at:  # once is not enough
                kept = tuple(length for length in manner.anew_at if length < real)
                manner = replace(manner, anew_at=kept, anew_from=real)
            else:
                manner = replace(manner, anew_at=(*manner.anew_at, real))
        return None

    def _grow(self, manner: Manner) -> Difference | None:
        return self._read(SeparateRows(self._model, manner=self._for_twin(manner)))

    def _read(self, rows: Rows) -> Difference | None:
        """The first difference of all that rows read without being forked."""
        grown = grow(rows, self._texts, self._runs()) or leap(rows, self._texts, self._runs())
        if grown is not None or not self._marks:
            return grown
        return go_on(rows, self._texts, self._marks[-1] + AFTER, self._longest)

    def _crops(self, manner: Manner) -> bool:
        rows = SeparateRows(self._model, manner=self._for_twin(replace(manner, crops=True)))
        try:
            return cut(rows, self._texts, self._runs()) is None and not rows.num_failed_crops
        except Exception:  # of whatever kind: its cache can't be cut back
            return False

    def _for_twin(self, manner: Manner) -> Manner:
        """A manner of the model's for the twin."""
        return replace(
            manner,
            anew_at=tuple(self._small[length] for length in manner.anew_at),
            anew_from=self._small.get(manner.anew_from, manner.anew_from),
        )

    @functools.cached_property
    def padded(self) -> Answer:
        """Whether rows padded on the left share a forward and the model's own cache."""

        def trial() -> Answer:
            if self.traces.names:
                return Answer(False, "it keeps a state of the text on its modules, one for all rows")
            return self._verdict(self._grow_padded)

        return self._ask(trial)

    def _grow_padded(self) -> Difference | None:
        read, texts = PaddedHistories(self._model), self._texts
        for run in self._runs():
            first = run[0]
            for length in run:
                pair = [texts.long[:length], texts.short[: 3 + length - first]]
                pair = pair[:: -1 if length % 2 else 1]  # in another order each time
                for got, ids in zip(read.logits(pair), pair):
                    if not texts.agrees(got, ids):
                        return Difference(length, "padded on the left")
        return None

    @functools.cached_property
    def own_loop_alone(self) -> Answer:
        """Whether transformers' own loop is right on one row."""
        return self._ask(lambda: self._verdict(lambda: self._generate(padded=False, num_rows=1)))

    @functools.cached_property
    def own_loop(self) -> Answer:
        """Whether transformers' own loop is right on rows of one length."""
        return self._ask(lambda: self._verdict(lambda: self._generate(padded=False)))

    @functools.cached_property
    def own_padded_loop(self) -> Answer:
        """Whether transformers' own loop is right on rows padded on the left, called as `generate` calls the model."""
        return self._ask(lambda: self._verdict(lambda: self._generate(padded=True)))

    def _generate(self, *, padded: bool, num_rows: int = 2) -> Difference | None:
        texts = self._texts
        config = GenerationConfig(
            max_new_tokens=NEW, do_sample=False, output_logits=True, return_dict_in_generate=True, pad_token_id=0
        )
        for run in self._runs():
            width = max(run[-1] - NEW, 3)
            rows = [texts.long[:width], texts.short[: max(width - 3, 2) if padded else width]][:num_rows]
            ids = torch.tensor([(0,) * (width - len(row)) + row for row in rows])
            mask = torch.tensor([[0] * (width - len(row)) + [1] * len(row) for row in rows])
            with texts.unchanged():
                out = self._model.generate(input_ids=ids, attention_mask=mask, generation_config=config)
            for at, row in enumerate(rows):
                new = tuple(out.sequences[at, width:].tolist())
                for step, logits in enumerate(out.logits):
                    read = row + new[:step]
                    if not texts.agrees(logits[at, : len(texts.after(read))], read):
                        return Difference(len(read), "in transformers' own loop")
        return None

    def _runs(self) -> list[list[int]]:
        return runs(self._marks, self._longest)

    def _mark_before(self, length: int) -> int | None:
        return next((mark for mark in reversed(self._marks) if mark < length <= mark + AFTER), None)

    def _verdict(self, run: Callable[[], Difference | None]) -> Answer:
        found = run()
        if found is None:
            return YES
        mark = self._mark_before(found.length)
        reason = f"a row of {found.length} tokens, {found.when}, gave other logits than without a cache"
        if mark is None:
            return Answer(False, reason)
        return Answer(
            True, f"past {self._lengths[mark]} tokens what was read no longer holds", upto=self._lengths[mark]
        )

    def _ask(self, trial: Callable[[], Answer]) -> Answer:
        """The answer of a trial; no, where it fails."""
        if not self._longest:
            return Answer(False, "its own forward fails on token ids alone")
        try:
            with torch.no_grad(), self._texts.unchanged():
                return trial()
        except Exception as error:  # any failure of the trial means that this model's forward is of another kind
            return Answer(False, first_line(error))


def first_line(error: Exception) -> str:
    """What went wrong, on one line."""
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0][:160]}" if lines else type(error).__name__
