"""A constraint with rules over several choices: a grammar for each set of choices made, and what reads them in the text.

The grammar allows for the next choice exactly the options that can still be completed, and for later ones any. What a
single token decides beyond the next choice is asked of the reader, token by token, so that there is never a dead end.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import OrderedDict
from collections.abc import Hashable, Sequence

import numpy as np

from counterpoint.constraints.compiled import Compiled, CompiledForm
from counterpoint.constraints.kinds import Constraint
from counterpoint.constraints.state import FormState, State
from counterpoint.constraints.vocabulary import Vocabulary
from counterpoint.errors import ConstraintError

MOST_FORMS, MOST_REFUSED = 512, 256  # grammars and masks that are kept ready


class Reader(ABC):
    """Reads a text that keeps rules, and knows which choices it has made. Immutable."""

    @property
    @abstractmethod
    def key(self) -> Hashable:
        """What the grammar of the whole text depends on: the choices made."""

    @property
    @abstractmethod
    def complete(self) -> bool:
        """Whether the text makes all choices."""

    @property
    def settled(self) -> bool:
        """Whether all choices are made, so that the grammar knows all that can follow."""
        return False

    @property
    def free(self) -> Hashable | None:
        """A key of where it stands, where no rule speaks of what is written until a mark of JSON ends it; None elsewhere."""
        return None

    @abstractmethod
    def after(self, text: bytes) -> Reader | None:
        """Having read some more; None where no way of going on keeps the rules.

        Raises:
            ConstraintError: that can't be told.
        """

    def takes(self, text: bytes) -> bool:
        """Whether some way of going on after this text keeps the rules."""
        return self.after(text) is not None

    @abstractmethod
    def form(self) -> Constraint:
        """The grammar of the whole text, with the options of the next choice that can be completed."""


class CompiledRules(Compiled):
    """A constraint with rules, for one vocabulary.

    Args:
        reader: has read nothing yet.

    Raises:
        ConstraintError: a text that keeps the rules can't be followed.
    """

    def __init__(self, constraint: Constraint, vocabulary: Vocabulary, reader: Reader, after: str | None) -> None:
        super().__init__(constraint, vocabulary)
        self.reader = reader
        self._forms: OrderedDict[Hashable, CompiledForm] = OrderedDict()
        self._refused: OrderedDict[Hashable, np.ndarray] = OrderedDict()
        self.after = b"" if after is None else after.encode()
        self.after_id: int | None = None
        if after is not None:
            ids = vocabulary.tokens.tokenize_str(after, parse_special=True)
            if len(ids) == 1 and vocabulary.tokens.is_special_token(ids[0]):
                self.after_id = ids[0]
        self.begun(reader)

    def start(self) -> RuledState:
        return RuledState(self, None if self.after else self.reader, [])

    def begun(self, reader: Reader) -> FormState:
        """The state of the grammar for a reader's choices that has read nothing."""
        key = reader.key
        if key not in self._forms:
            self._forms[key] = CompiledForm(reader.form(), self.vocabulary)
            while len(self._forms) > MOST_FORMS:
                self._forms.popitem(last=False)
        self._forms.move_to_end(key)
        return self._forms[key].start()

    def refused(self, reader: Reader) -> np.ndarray:
        """Packed bits of the tokens that end what is free and then break the rules."""
        key = reader.free
        if key not in self._refused:
            bits: np.ndarray = np.zeros(8 * self.vocabulary.num_bytes, dtype=bool)
            for token_id in self.vocabulary.with_marks:
                bits[token_id] = not reader.takes(self.vocabulary.texts[token_id])
            self._refused[key] = np.packbits(bits, bitorder="little")
            while len(self._refused) > MOST_REFUSED:
                self._refused.popitem(last=False)
        return self._refused[key]


class RuledState(State):
    """The state of a sample that keeps rules.

    Args:
        compiled: the constraint.
        reader: has read what was written; None before the text that the form comes after.
        ids: what was written.
    """

    def __init__(self, compiled: CompiledRules, reader: Reader | None, ids: list[int]) -> None:
        self.compiled, self.vocabulary = compiled, compiled.vocabulary
        self._reader, self._ids = reader, ids
        self._before = b""  # the end of what comes before the form
        self._form: FormState | None = None
        self._key: Hashable = None  # of the choices that `_form` is for
        self._bits: np.ndarray | None = None

    @property
    def complete(self) -> bool:
        return self._reader is not None and self._reader.complete and self.form.complete

    @property
    def is_over(self) -> bool:
        return bool(self._ids) and self._ids[-1] in self.vocabulary.eos_ids

    @property
    def form(self) -> FormState:
        reader = self._reader or self.compiled.reader
        if self._form is None or self._key != reader.key:
            form = self.compiled.begun(reader)
            for token_id in self._ids:
                form.accept(token_id)
            self._form, self._key = form, reader.key
        return self._form

    def allowed(self) -> np.ndarray:
        if self.is_over:
            raise ConstraintError("the text has ended, so no token can follow")
        if self._bits is None:
            bits = self.form.allowed().copy()
            if self._reader is not None and self._reader.settled:
                pass
            elif self._reader is not None and self._reader.free is not None:
                bits &= ~self.compiled.refused(self._reader)
            else:
                self._drop_refused(bits)
            if not bits.any():
                raise ConstraintError("the rules leave no token to go on with; loosen them")
            self._bits = bits
        return self._bits

    def accept(self, token_id: int) -> None:
        known = self._bits
        is_known = known is not None and bool(known[token_id // 8] >> (token_id % 8) & 1)
        if self.is_over or (known is not None and not is_known) or (known is None and not self._takes(token_id)):
            raise ConstraintError(f"the constraint does not allow the token id {token_id} here")
        self.form.accept(token_id)
        self._ids.append(token_id)
        self._bits = None
        if token_id not in self.vocabulary.eos_ids:
            self._read(token_id)

    def forced(self) -> list[int]:
        if self.is_over:
            return []
        # After each token the grammar may be another, so one at a time.
        return self.form.forced()[:1]

    def num_allowed(self, token_ids: Sequence[int]) -> int:
        try:
            return 0 if self.is_over else self.form.num_allowed(token_ids)
        except ConstraintError:  # told to whoever asks what is allowed
            return 0

    def fork(self) -> RuledState:
        other = RuledState(self.compiled, self._reader, list(self._ids))
        other._before, other._bits, other._key = self._before, self._bits, self._key
        other._form = None if self._form is None else self._form.fork()
        return other

    def _drop_refused(self, bits: np.ndarray) -> None:
        """Take out the tokens that decide something which the grammar does not know of."""
        allowed = np.unpackbits(bits, bitorder="little").nonzero()[0].tolist()
        if len(allowed) == 1:
            return
        if self._reader is None:
            ends = self.vocabulary.going_on_after(self.compiled.after)
            allowed = [i for i in allowed if i in ends]
        for token_id in allowed:
            if token_id not in self.vocabulary.eos_ids and not self._takes(token_id):
                bits[token_id // 8] &= 0xFF ^ (1 << token_id % 8)

    def _takes(self, token_id: int) -> bool:
        if token_id in self.vocabulary.eos_ids or token_id >= len(self.vocabulary.texts):
            return True  # the grammar knows
        text = self.vocabulary.texts[token_id]
        if self._reader is not None:
            return self._reader.takes(text)
        rest = self._rest(token_id)
        return rest is None or self.compiled.reader.takes(rest)

    def _rest(self, token_id: int) -> bytes | None:
        """What a token writes of the form, if it ends what comes before it; None if it does not."""
        if self.compiled.after_id is not None:
            return b"" if token_id == self.compiled.after_id else None
        before = self._before + self.vocabulary.texts[token_id]
        at = before.find(self.compiled.after)
        return None if at < 0 else before[at + len(self.compiled.after) :]

    def _read(self, token_id: int) -> None:
        text = self.vocabulary.texts[token_id]
        if self._reader is None:
            rest = self._rest(token_id)
            if rest is None:
                self._before = (self._before + text)[-len(self.compiled.after) :]
                return
            self._reader, self._before, text = self.compiled.reader, b"", rest
        self._reader = self._reader.after(text)
        if self._reader is None:  # pragma: no cover - checked before
            raise ConstraintError("the rules leave no way to go on; loosen them")
