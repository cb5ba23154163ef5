"""The forms that an output can be held to, as plain values."""

from __future__ import annotations

import dataclasses
import json
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

from counterpoint.constraints.formats import check_pattern, narrowed
from counterpoint.errors import ConstraintError

if TYPE_CHECKING:
    from counterpoint.constraints.compiled import Compiled
    from counterpoint.constraints.fields import Fields
    from counterpoint.constraints.vocabulary import Vocabulary

MOST_BYTES = 512 * 1024  # of a schema or grammar: what may be larger takes seconds to refuse
ABOUT = ("title", "description", "$comment", "default", "examples")  # keywords that no output is held to
MOST_GBNF_BYTES = 16 * 1024  # reading it takes a time that grows with its square


_ESCAPE = re.compile(r"\\[xu]\{([0-9A-Fa-f]{1,5})\}|\\(?:x|u00)([0-9A-Fa-f]{2})|\\(.)")
_GBNF = re.compile(r"^\s*[\w-]+\s*::=", re.MULTILINE)


class Constraint:
    """A form of the output. Not used itself: see `Json`, `Regex`, `Grammar`, `Choices`, `Plan`."""

    __slots__ = ()

    def compile(self, model: Any, tokenizer: Any = None) -> Compiled:
        """The constraint made ready for a model's vocabulary. The same constraint and model give the same object.

        Args:
            model: a `counterpoint.Model`; or, with `tokenizer`, a model of transformers.
            tokenizer: that of a model of transformers.

        Raises:
            ConstraintError: it can't be read, or asks for something that can't be kept; the message names it.
            UnsupportedError: the model has no tokenizer of the fast kind, or no token that ends a text.
        """
        from counterpoint.constraints.compiled import compiled  # llguidance is needed from here on

        if tokenizer is not None:
            ends = model.generation_config.eos_token_id
            model = SimpleNamespace(
                tokenizer=tokenizer,
                vocab_size=model.config.get_text_config().vocab_size,
                eos_ids=frozenset([] if ends is None else ends if isinstance(ends, (list, tuple)) else [ends]),
                name=type(model).__name__,
            )
        return compiled(self.settled(), model)

    def settled(self) -> Constraint:
        """The constraint as a value that does not change."""
        return self

    def made_for(self, vocabulary: Vocabulary) -> Compiled:
        """The constraint made ready for a vocabulary, see `compile`."""
        from counterpoint.constraints.compiled import CompiledForm

        return CompiledForm(self, vocabulary)

    def grammar(self) -> dict[str, Any]:
        """One grammar in llguidance's form."""
        raise NotImplementedError

    def literals(self) -> Iterator[str]:
        """Texts that the output may have to hold to the letter."""
        raise NotImplementedError


@dataclass(frozen=True, slots=True)
class Json(Constraint):
    """A JSON text that is valid under a schema.

    Args:
        schema: a JSON Schema as a dict, as its JSON text or as a pydantic class; None is any object. Keywords that can't
            be kept are refused by name when it is compiled. `uniqueItems` is kept of items that are one of finitely many
            values, and needs OR-tools.
        rules: a function that adds rules over the schema's enums, booleans and bounded integers; it is called once with
            `Fields` when the constraint is compiled.
        after: the form begins after this text, which has to come in the output first; for models that think first.
            Before it anything may be written; up to 8 characters of white space may follow it.
        whitespace: most characters of white space in a row between the parts, 0 for none. Without a bound a model may
            write white space for ever.

    Raises:
        ConstraintError: the schema is no JSON.
    """

    schema: Any = None
    rules: Callable[[Fields], Any] | None = dataclasses.field(default=None, kw_only=True)
    after: str | None = dataclasses.field(default=None, kw_only=True)
    whitespace: int = dataclasses.field(default=8, kw_only=True)

    def __post_init__(self) -> None:
        check_after(self.after)
        if isinstance(self.whitespace, bool) or not isinstance(self.whitespace, int) or self.whitespace < 0:
            raise ConstraintError(f"whitespace is {self.whitespace!r}; use a count of characters, 0 for none")
        if self.rules is not None and not callable(self.rules):
            raise ConstraintError(f"rules is {self.rules!r:.60}; use a function that takes the fields and adds rules")
        object.__setattr__(self, "schema", _schema_text(self.schema))

    def made_for(self, vocabulary: Vocabulary) -> Compiled:
        if self.rules is None and '"uniqueItems"' not in self.schema:
            return super(Json, self).made_for(vocabulary)
        from counterpoint.constraints.fields import compiled_with_rules

        return compiled_with_rules(self, vocabulary)

    def grammar(self) -> dict[str, Any]:
        schema = narrowed(json.loads(self.schema))
        options = {"whitespace_flexible": self.whitespace > 0}
        if isinstance(schema, dict):  # the schema's own options are no part of JSON Schema
            schema = {name: value for name, value in schema.items() if name != "x-guidance"} | {"x-guidance": options}
        return {"json_schema": schema}

    def literals(self) -> Iterator[str]:
        return _texts(json.loads(self.schema))


@dataclass(frozen=True, slots=True)
class Regex(Constraint):
    r"""A text that matches a regular expression from its first to its last character.

    Args:
        pattern: in the syntax of Rust's `regex`: without look-around and back-references; `.` stops at newlines.
        after: as in `Json`.

    Raises:
        ConstraintError: the pattern is no text, or empty.
    """

    pattern: str
    after: str | None = dataclasses.field(default=None, kw_only=True)

    def __post_init__(self) -> None:
        check_after(self.after)
        check_text("pattern", self.pattern)
        check_pattern("the pattern", self.pattern)

    def grammar(self) -> dict[str, Any]:
        from llguidance import regex_to_lark

        return {"lark_grammar": f"start: /{regex_to_lark(self.pattern, use_ascii='')}/"}

    def literals(self) -> Iterator[str]:
        yield _ESCAPE.sub(lambda e: chr(int(e[1] or e[2], 16)) if e[3] is None else e[3], self.pattern)


@dataclass(frozen=True, slots=True)
class Grammar(Constraint):
    """A text that a context-free grammar derives.

    Args:
        lark: the grammar, with a rule `start`, in llguidance's dialect of Lark; or with a rule `root`, in GBNF, as
            llama.cpp and vLLM have it.
        after: as in `Json`.

    Raises:
        ConstraintError: the grammar is no text, empty, or too large.
    """

    lark: str
    after: str | None = dataclasses.field(default=None, kw_only=True)

    def __post_init__(self) -> None:
        check_after(self.after)
        check_text("grammar", self.lark)
        if self._is_gbnf and len(self.lark) > MOST_GBNF_BYTES:
            raise ConstraintError(
                f"the grammar is GBNF of {len(self.lark)} characters; use {MOST_GBNF_BYTES} at most, or write it in Lark"
            )

    @property
    def _is_gbnf(self) -> bool:
        return _GBNF.search(self.lark) is not None

    def grammar(self) -> dict[str, Any]:
        if not self._is_gbnf:
            return {"lark_grammar": self.lark}
        from llguidance.gbnf_to_lark import gbnf_to_lark

        return {"lark_grammar": gbnf_to_lark(self.lark)}

    def literals(self) -> Iterator[str]:
        yield from (one.replace('\\"', '"') for one in re.findall(r'"((?:\\.|[^"\\])*)"', self.lark))


@dataclass(frozen=True, slots=True)
class Choices(Constraint):
    """One of several texts, and nothing else.

    Args:
        texts: at least one, none of them empty, all different.
        after: as in `Json`.

    Raises:
        ConstraintError: there is none, or one is no text, empty or given twice.
    """

    texts: tuple[str, ...]
    after: str | None = dataclasses.field(default=None, kw_only=True)

    def __post_init__(self) -> None:
        check_after(self.after)
        if isinstance(self.texts, str) or not isinstance(self.texts, Iterable):
            raise ConstraintError(f"choices is {self.texts!r:.60}; use a list of texts")
        texts = tuple(self.texts)
        if not texts:
            raise ConstraintError("choices is an empty list; give at least one text")
        for text in texts:
            check_text("choice", text)
        if len(set(texts)) < len(texts):
            raise ConstraintError(f"choices has {Counter(texts).most_common(1)[0][0]!r:.60} twice; give each text once")
        object.__setattr__(self, "texts", texts)

    def grammar(self) -> dict[str, Any]:
        return {"lark_grammar": "start: " + " | ".join(json.dumps(text, ensure_ascii=False) for text in self.texts)}

    def literals(self) -> Iterator[str]:
        return iter(self.texts)


def _schema_text(schema: Any) -> str:
    """The schema as JSON text, equal for equal schemas. The order of properties is kept: it is that of the output."""
    if schema is None:
        schema = {"type": "object"}
    elif hasattr(schema, "model_json_schema"):
        schema = schema.model_json_schema()
    try:
        if isinstance(schema, (str, bytes)):
            schema = json.loads(schema)
        text = json.dumps(schema, allow_nan=False)
    except (ValueError, TypeError, RecursionError) as error:
        raise ConstraintError(f"the schema is no JSON: {_one_line(error)}; give a JSON Schema object") from None
    if not isinstance(schema, (dict, bool)):
        raise ConstraintError(f"the schema is {text:.60}; a JSON Schema is an object")
    check_text("schema", text)
    return text


def _texts(schema: Any) -> Iterator[str]:
    """The names and texts in a schema, those apart that only describe it."""
    if isinstance(schema, str):
        yield schema
    elif isinstance(schema, list):
        for part in schema:
            yield from _texts(part)
    elif isinstance(schema, dict):
        for name, part in schema.items():
            if isinstance(part, dict) or name not in ABOUT:
                yield name
                yield from _texts(part)


def check_after(after: Any) -> None:
    """Raise where this is no text that a form can come after."""
    if after is not None:
        check_text("after", after)


def check_text(name: str, value: Any) -> None:
    """Raise where this is no text, empty, too large or no Unicode."""
    if not isinstance(value, str) or not value:
        raise ConstraintError(f"{name} is {value!r:.60}; use a text that is not empty")
    try:
        size = len(value.encode())
    except UnicodeEncodeError as error:
        raise ConstraintError(f"{name} is not valid Unicode at character {error.start}; mend its encoding") from None
    if size > MOST_BYTES:
        raise ConstraintError(f"{name} has {size} bytes; use {MOST_BYTES} at most")


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())[:200]
