"""A constraint made ready for one vocabulary."""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from typing import Any

import numpy as np

from counterpoint.constraints.kinds import Constraint, Json
from counterpoint.constraints.state import FormState, State
from counterpoint.constraints.vocabulary import MOST_COMPILED, Spaces, Vocabulary, vocabulary_of
from counterpoint.errors import ConstraintError

# With these the worst case is refused in about a second; llguidance's own limits allow ten.
MOST_SYMBOLS, MOST_FUEL = 20_000, 500_000
NUM_TRIED = 4  # tokens

# The form after a text: the text may come as characters, or be a token of its own that no character spells.
AFTER_TEXT = "start: free WS @body\nfree[suffix={text}]: /(.|\\n)*/\nWS: /[ \\t\\r\\n]{{0,8}}/"
AFTER_TOKEN = "start: FREE <[{token_id}]> WS @body\nFREE: /(.|\\n)*/\nWS: /[ \\t\\r\\n]{{0,8}}/"


class Compiled(ABC):
    """A constraint on the output of one model. Immutable; `start` gives the state of one sample.

    Args:
        constraint: what is kept.
        vocabulary: the tokens it is kept with.
    """

    def __init__(self, constraint: Constraint, vocabulary: Vocabulary) -> None:
        self.constraint, self.vocabulary = constraint, vocabulary

    @property
    def vocab_size(self) -> int:
        """Number of token ids of the model."""
        return self.vocabulary.size

    def fits(self, model: Any) -> bool:
        """Whether the tokens of a model are those that the constraint was compiled for."""
        return model.tokenizer is not None and vocabulary_of(model) is self.vocabulary

    @abstractmethod
    def start(self) -> State:
        """The state of one sample that has written nothing yet."""


class CompiledForm(Compiled):
    """A constraint that is one grammar.

    Raises:
        ConstraintError: it can't be read, asks for something that can't be kept, or no text keeps it.
    """

    def __init__(self, constraint: Constraint, vocabulary: Vocabulary) -> None:
        from llguidance import LLMatcher, LLParserLimits

        super().__init__(constraint, vocabulary)
        self._check_spelled()
        try:
            grammar = constraint.grammar()
            limits = LLParserLimits(max_grammar_size=MOST_SYMBOLS, initial_lexer_fuel=MOST_FUEL)
            whole = json.dumps(self._whole(grammar))
            self._begin = LLMatcher(vocabulary.tokens, whole, log_level=0, limits=limits)
        except BaseException as error:  # a panic in Rust is no Exception
            if isinstance(error, (KeyboardInterrupt, SystemExit, MemoryError)):
                raise
            raise ConstraintError(f"{self._name} can't be kept: {_first_lines(str(error))}; change it") from None
        if self._begin.is_error():
            raise ConstraintError(f"{self._name} can't be kept: {_first_lines(self._begin.get_error())}; change it")
        try:
            self._try_out()
        except ConstraintError as error:
            raise ConstraintError(f"no text keeps {self._name}: {error}") from None

    def start(self) -> FormState:
        constraint = self.constraint
        spaces = Spaces(constraint.whitespace) if isinstance(constraint, Json) and constraint.whitespace else None
        after = None if constraint.after is None else constraint.after.encode()
        return FormState(self._begin.deep_copy(), self.vocabulary, spaces, after)

    @property
    def _name(self) -> str:
        return {"Json": "the JSON schema"}.get(type(self.constraint).__name__, f"the {type(self.constraint).__name__}")

    def _check_spelled(self) -> None:
        """Raise where the form asks for the text of a special token: llguidance would write the token, which has none."""
        for special in self.vocabulary.specials:
            if any(special in text for text in self.constraint.literals()):
                raise ConstraintError(
                    f"the form asks for {special!r}, which is a token of its own for this model and no text; leave it out"
                )

    def _try_out(self) -> None:
        """Go a few tokens, so that what can't be begun or is too large to be followed is refused before it is used."""
        state = self.start()
        for _ in range(NUM_TRIED):
            bits = np.unpackbits(state.allowed(), bitorder="little")
            bits[list(self.vocabulary.eos_ids)] = 0
            if not bits.any():
                return
            state.accept(int(bits.argmax()))
        state.allowed()

    def _whole(self, body: dict[str, Any]) -> dict[str, Any]:
        after = self.constraint.after
        if after is None:
            return {"grammars": [body]}
        ids = self.vocabulary.tokens.tokenize_str(after, parse_special=True)
        if len(ids) == 1 and self.vocabulary.tokens.is_special_token(ids[0]):
            first = AFTER_TOKEN.format(token_id=ids[0])
        else:
            first = AFTER_TEXT.format(text=json.dumps(after, ensure_ascii=False))
        return {"grammars": [{"lark_grammar": first}, body | {"name": "body"}]}


def compiled(constraint: Constraint, model: Any) -> Compiled:
    """See `Constraint.compile`."""
    vocabulary = vocabulary_of(model)
    kept = vocabulary.compiled
    if constraint not in kept:
        kept[constraint] = constraint.made_for(vocabulary)
        while len(kept) > MOST_COMPILED:
            kept.popitem(last=False)
    kept.move_to_end(constraint)
    return kept[constraint]


def _first_lines(message: str) -> str:
    """A message of llguidance's in one line, without the state that follows it."""
    return " ".join(message.split("<state>")[0].split())[:240]
