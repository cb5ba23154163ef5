"""What a model's code does with its config, found on a twin. Nothing here depends on the model's weights."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass, replace

from counterpoint.models.attention import FewQueries
from counterpoint.models.padded import PaddedHistories
from counterpoint.models.ragged import RaggedRows
from counterpoint.models.rows import Rows
from counterpoint.models.separate import Manner, SeparateRows
from counterpoint.models.trials.course import AFTER, FAR, Difference, cut, go_on, grow, leap, runs
from counterpoint.models.trials.own_loop import LoopCall, write
from counterpoint.models.trials.texts import Texts, TokenIds
from counterpoint.models.trials.ties import settled_len
from counterpoint.models.trials.twin import Twin
from counterpoint.models.trials.undisturbed import undisturbed

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
        self.slots = twin.slots
        self._limits = {**twin.tables, **twin.lengths}
        self._small = {real: mark for mark, real in twin.lengths.items()}
        self._joint: dict[bool, Answer] = {}
        self._own_loops: dict[LoopCall, Answer] = {}
        self._texts = Texts(
            twin.model,
            max([LEAST_TEXT, *(mark + AFTER for mark in twin.tables), *(mark + FAR for mark in twin.lengths)]),
            is_twin=True,
        )
        self._longest = 0
        with undisturbed(twin.model):
            self._texts.find_traces(self._find_longest)
        self._is_bounded = 0 < self._longest < len(self._texts.long)
        self._texts.shorten(self._longest)
        marks = [mark for mark in sorted(twin.lengths) if mark <= self._longest]
        self._texts.marks = marks
        self._settled = self._find_settled(marks)
        #: the longest text whose cache may be kept
        self._reach = self._longest if self._settled is None else self._settled
        self._marks = [mark for mark in marks if mark <= self._reach]

    def _find_longest(self) -> None:
        """Find how many tokens the twin's own forward reads without failing."""
        long = self._texts.long
        if self._reads(long):
            self._longest = len(long)
            return
        least, most = 0, len(long)  # it reads the one and fails at the other
        while most - least > 1:
            middle = (least + most) // 2
            least, most = (middle, most) if self._reads(long[:middle]) else (least, middle)
        self._longest = least

    def _find_settled(self, marks: list[int]) -> int | None:
        """The mark up to which no choice between equal scores can change a prediction; None if there is no such choice."""
        if self._longest < LEAST_TEXT:
            return None
        try:
            with undisturbed(self._model), self._texts.unchanged():
                return settled_len(self._texts.read_several, marks, self._longest)
        except Exception:  # any exception: whether several texts can be read at once is found by another trial
            return None

    def _reads(self, ids: TokenIds) -> bool:
        try:
            self._texts.read(ids)
        except Exception:  # any exception, such as an index past the end of a table
            return False
        return True

    @functools.cached_property
    def readable_len(self) -> int | None:
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
        """Whether the prediction after a token depends on earlier tokens alone."""
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

        grown = self._verdict(lambda texts: self._read(new_rows(), texts))
        if not grown:
            return grown
        upto = self._reach if grown.upto is None else self._small[grown.upto]
        forked = cut(new_rows(), self._texts, runs(self._marks, upto))
        return grown if forked is None else Answer(False, _reason(forked))

    @functools.cached_property
    def manner(self) -> Manner:
        """How rows are read one by one. `ANEW` where no cache of the model's can be relied on."""
        with undisturbed(self._model):
            return replace(ANEW, traces=self.traces) if self._reach < LEAST_TEXT else self._find_manner()

    def _find_manner(self) -> Manner:
        styles = [(True, False), (False, False), (False, True), (True, True)]
        anew_from = None if self._settled is None else self._lengths[self._settled]
        # What joint rows had read no longer held past these lengths; nor does a row's own cache, most often.
        upto = [answer.upto for answer in self._joint.values() if answer]
        ends = {length for length in upto if length is not None and length != anew_from}
        for positions, mask in styles:
            for several in (True, False):
                start = Manner(positions, mask, several, False, tuple(sorted(ends)), anew_from, self.traces)
                manner = self._fitted(start)
                if manner is not None:
                    return replace(manner, crops=self._crops(manner))
        return replace(ANEW, traces=self.traces)

    def _fitted(self, manner: Manner) -> Manner | None:
        """A manner with the lengths at which rows have to be read anew; None where it does not do even so."""
        for _ in range(2 * len(self._marks) + 1):
            try:
                found = self._grow(manner)
            except Exception:  # any exception: the model can't be called in this way
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
        return self._read(SeparateRows(self._model, manner=self._for_twin(manner)), self._texts)

    def _read(self, rows: Rows, texts: Texts) -> Difference | None:
        """The first difference of all that rows read without being forked."""
        grown = grow(rows, texts, self._runs()) or leap(rows, texts, self._runs())
        if grown is not None or not self._marks:
            return grown
        return go_on(rows, texts, self._marks[-1] + AFTER, self._reach)

    def _crops(self, manner: Manner) -> bool:
        rows = SeparateRows(self._model, manner=self._for_twin(replace(manner, crops=True)))
        try:
            return cut(rows, self._texts, self._runs()) is None and not rows.num_failed_crops
        except Exception:  # any exception: its cache can't be cut back
            return False

    def _for_twin(self, manner: Manner) -> Manner:
        """A manner of the model's for the twin."""
        return replace(
            manner,
            anew_at=tuple(self._small[length] for length in manner.anew_at),
            anew_from=None if manner.anew_from is None else self._small.get(manner.anew_from, manner.anew_from),
        )

    @functools.cached_property
    def padded(self) -> Answer:
        """Whether rows padded on the left share a forward and the model's own cache."""

        def trial() -> Answer:
            if self.traces.names:
                return Answer(False, "it keeps a state of the text on its modules, one for all rows")
            return self._verdict(self._grow_padded)

        return self._ask(trial)

    def _grow_padded(self, texts: Texts) -> Difference | None:
        read = PaddedHistories(self._model)
        for run in self._walks():
            first = run[0]
            for length in run:
                pair = [texts.long[:length], texts.short[: 3 + length - first]]
                both = [texts.long, texts.short]
                if length % 2:  # in another order each time
                    pair, both = pair[::-1], both[::-1]
                for got, ids, whole in zip(read.logits(pair), pair, both):
                    if not texts.agrees(got, ids, of=whole):
                        return Difference(length, "padded on the left")
        return None

    def own_loop(self, call: LoopCall) -> Answer:
        """Whether transformers' own loop is right on calls of this kind."""
        if call not in self._own_loops:
            self._own_loops[call] = self._ask(lambda: self._verdict(lambda texts: self._write(call, texts)))
        return self._own_loops[call]

    def _write(self, call: LoopCall, texts: Texts) -> Difference | None:
        """Let the loop write some tokens at each mark, and from a short text through all of them."""
        walks = [(max(run[-1] - NEW, 3), NEW) for run in self._runs()]
        # Some windows hold only written tokens, so that they begin to act at another length for each prompt.
        start = LEAST_TEXT - 3 if texts is self._texts else LEAST_TEXT - 1
        if self._reach > start + NEW:
            walks.append((start, self._reach - start))
        for width, num_new in walks:
            rows = [texts.long[:width], texts.short[: max(width - 3, 2) if call.padded else width]]
            rows = rows[-call.num_rows :] if call.padded else rows[: call.num_rows]
            with texts.unchanged():
                written = write(self._model, rows, call, num_new, width)
            found = written.first_difference(lambda _, got, ids, row: texts.agrees(got, ids, of=row))
            if found is not None:
                return found
        return None

    def _runs(self) -> list[list[int]]:
        return runs(self._marks, self._reach)

    def _walks(self) -> list[list[int]]:
        """The lengths about each mark, and all lengths from a short one on."""
        return [*self._runs(), list(range(LEAST_TEXT - 3, self._reach + 1))] if self._marks else self._runs()

    def _mark_before(self, length: int) -> int | None:
        return next((mark for mark in reversed(self._marks) if mark < length <= mark + AFTER), None)

    def _verdict(self, run: Callable[[Texts], Difference | None]) -> Answer:
        """Yes, no, or up to which length. A length is taken for the cause only where other texts differ at it too."""
        found = run(self._texts)
        if found is None:
            if self._settled is None:
                return YES
            real = self._lengths[self._settled]
            return Answer(True, f"past {real} tokens it chooses among equals, which any other way to read turns", real)
        mark = self._mark_before(found.length)
        if mark is not None:
            again = run(self._texts.swapped())
            mark = None if again is None or self._mark_before(again.length) != mark else mark
        if mark is None:
            return Answer(False, _reason(found))
        return Answer(True, f"past {self._lengths[mark]} tokens what was read no longer holds", self._lengths[mark])

    def _ask(self, trial: Callable[[], Answer]) -> Answer:
        """The answer of a trial; no, where it fails."""
        if not self._longest:
            return Answer(False, "its own forward fails on token ids alone")
        if self._reach < LEAST_TEXT and self._settled is not None:
            return Answer(False, "it chooses among equals, which any other way to read turns")
        try:
            with undisturbed(self._model), self._texts.unchanged():
                return trial()
        except Exception as error:  # any failure of the trial means that this model's forward is of another kind
            return Answer(False, first_line(error))


def _reason(found: Difference) -> str:
    return f"a row of {found.length} tokens, {found.when}, gave other logits than without a cache"


def first_line(error: Exception) -> str:
    """What went wrong, on one line."""
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0][:160]}" if lines else type(error).__name__
