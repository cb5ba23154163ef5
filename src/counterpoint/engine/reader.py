"""One row of a sequence: what it has read, what it reads next, and the predictions that came of it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from torch import Tensor, nn

from counterpoint.contexts import Inputs
from counterpoint.engine.prefix import LEAST, PrefixStore, shared_length
from counterpoint.models.rows import Rows, Snapshot


@dataclass(slots=True, eq=False)
class Reader:
    """One row of a sequence: what it has read and what it reads next.

    Args:
        rows: the rows of the model that reads it.
        history: tokens in the row so far.
        todo: tokens to read before the sequence can choose its next one.
        source: another reader whose first `shared` tokens are the same; they are copied instead of read.
        suffixes: ids that are read after `todo` at each step and forgotten again.
        snapshot: what an ended row had read, whose first `shared` tokens are the same; copied likewise.
        store: where to keep what was read.
        guess: tokens that may follow `todo`; read with it.
        inputs: what a processor made of the beginning of `todo`, pictures and all; read as one. None is text alone.
        head: the model's output embeddings, where what they read is wanted with each prediction, as its `hidden`.
    """

    rows: Rows
    todo: list[int]
    suffixes: tuple[tuple[int, ...], ...] = ()
    history: list[int] = field(default_factory=list)
    row: int | None = None
    source: Reader | None = None
    shared: int = 0
    logits: list[Tensor] = field(default_factory=list)  # (V,) after todo, then after each suffix
    snapshot: Snapshot | None = None
    store: PrefixStore | None = None
    guess: list[int] = field(default_factory=list)
    ahead: list[Tensor] = field(default_factory=list)  # (V,) after each guessed token
    block: int | None = None  # prompts are read in blocks that end at its multiples, and shared up to there
    inputs: Inputs | None = None
    head: nn.Module | None = None
    num_prompt: int = field(init=False)
    first_logits: Tensor | None = None  # (V,) after the prompt

    def __post_init__(self) -> None:
        self.num_prompt = len(self.todo)

    @property
    def opening(self) -> Inputs | None:
        """What is read next, as one and by itself, where the row begins with pictures."""
        return self.inputs if not self.history else None

    @property
    def num_next(self) -> int | None:
        """How many tokens are read next where they can't be split; None where any number can be read."""
        if self.opening is not None:
            return len(self.opening.ids)
        return None if self.rows.can_crop else len(self.todo)

    @property
    def is_reading_prompt(self) -> bool:
        """Whether what it reads next is of its prompt."""
        return len(self.history) < self.num_prompt

    def find_source(
        self, earlier: Iterable[Reader], store: PrefixStore | None = None, block: int | None = None
    ) -> None:
        """Copy from the earlier reader or kept text that begins most like this one, if that is worth a copy.

        Args:
            block: copy only what was read in blocks of a prompt, up to the end of one; or a whole prompt, if it is the same,
                with its prediction.
        """
        self.store, self.block = store, block
        if not self.rows.can_crop:
            return
        best, longest = None, LEAST - 1
        wanted = self.todo[:-1]  # the last token is always read, since its prediction is wanted
        for other in earlier:
            if other.rows is not self.rows or not other.alive or other.inputs != self.inputs:
                continue
            text = [*other.history, *other.todo]
            if self.inputs is not None:  # its last token may be no text, so it is not read again
                shared = len(self.todo) if self.todo == text[: other.num_prompt] and not other.suffixes else 0
                shared = 0 if self.suffixes else shared
            elif block is None:
                shared = shared_length(text, wanted)
            elif text[: other.num_prompt] == self.todo and not (self.suffixes or other.suffixes):
                shared = len(self.todo)
            else:
                shared = min(shared_length(text, wanted), other.num_prompt) // block * block
            if shared > longest:
                best, longest = other, shared
        if store is not None and longest < len(self.todo) and self.inputs is None:
            snapshot, shared = store.find(self.rows, wanted)
            shared = shared if block is None else shared // block * block
            if snapshot is not None and 0 < shared >= longest:
                self.snapshot, self.shared = snapshot, shared
                return
        if best is not None:
            self.source, self.shared = best, longest

    def begin(self) -> bool:
        """Take a row; False while the source has not read the shared part yet."""
        if self.row is not None:
            return True
        if self.snapshot is not None:
            self.row, self.snapshot = self.rows.add_from(self.snapshot, self.shared), None
            self.history, self.todo = self.todo[: self.shared], self.todo[self.shared :]
            return True
        source = self.source
        is_whole = self.shared == len(self.todo)
        if source is not None and source.row is not None and len(source.history) >= self.shared:
            self.row = self.rows.fork(source.row, self.shared)
            self.history, self.todo = self.todo[: self.shared], self.todo[self.shared :]
            if is_whole:
                self.first_logits, self.logits = source.first_logits, [source.first_logits]
        elif source is not None and source.alive:
            return False
        else:
            self.row, self.shared = self.rows.add(), 0
        self.source = None
        return True

    def shares_forward(self, other: Reader) -> bool:
        """Whether one forward reads both rows."""
        return self.rows is other.rows and self.rows.is_joint

    @property
    def alive(self) -> bool:
        """Whether the reader holds a row or will."""
        return self.row is not None or bool(self.todo)

    def take(self, token_id: int) -> bool:
        """Go on with the chosen token; whether it was guessed, so that what follows it is known already."""
        if self.ahead and self.guess[0] == token_id:
            self.history.append(self.guess.pop(0))
            self.logits = [self.ahead.pop(0)]
            return True
        if self.ahead:
            self.rows.crop(self.row, len(self.history))
        self.todo, self.logits, self.guess, self.ahead = [*self.todo, token_id], [], [], []
        return False

    def go_back(self, num_output: int) -> None:
        """Forget all but the prompt and so many tokens of output. The last of them is read again, for its prediction."""
        length = self.num_prompt + num_output
        text = [*self.history, *self.todo][:length]
        kept = min(len(self.history), length - 1)
        if self.row is None:
            kept = 0
        elif self.inputs is not None and kept < len(self.inputs.ids):  # which are read as one
            self.rows.free(self.row)
            self.row, kept = None, 0
        else:
            self.rows.crop(self.row, kept)
        self.history, self.todo = text[:kept], text[kept:]
        self.logits, self.guess, self.ahead = [], [], []

    def keep(self) -> None:
        """Keep what was read for requests to come."""
        if self.store is not None and self.row is not None and self.inputs is None:
            read = self.history
            if self.block is not None:  # what was written was not read in blocks
                read = read[: min(len(read), self.num_prompt) // self.block * self.block]
            self.store.keep(self.rows, self.row, read)

    def set_aside(self) -> None:
        """Give the row up; what was read is read again when it goes on."""
        if self.row is not None:
            self.rows.free(self.row)
        self.todo, self.history = [*self.history, *self.todo], []
        self.num_prompt = len(self.todo)
        self.row, self.source, self.snapshot, self.shared = None, None, None, 0
        self.logits, self.guess, self.ahead, self.first_logits = [], [], [], None

    def dont_wait(self) -> None:
        """Read by itself what a source has not read yet."""
        if self.source is not None and len(self.source.history) < self.shared:
            self.source = None

    def free(self) -> None:
        if self.row is not None:
            self.rows.free(self.row)
        self.row, self.todo, self.logits, self.guess, self.ahead, self.first_logits = None, [], [], [], [], None
