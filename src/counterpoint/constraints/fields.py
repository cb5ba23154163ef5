"""The fields of a JSON schema that rules can speak of: enums, booleans and bounded integers at places that are known."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from counterpoint.constraints.finite import NOTES, key_of, resolved, values_of
from counterpoint.constraints.rules import ABSENT, Choice, Rules
from counterpoint.errors import ConstraintError

if TYPE_CHECKING:
    from counterpoint.constraints.compiled import Compiled
    from counterpoint.constraints.kinds import Json
    from counterpoint.constraints.vocabulary import Vocabulary

OBJECT = NOTES | {"type", "properties", "required", "additionalProperties"}
ARRAY = NOTES | {"type", "items", "prefixItems", "minItems", "maxItems", "uniqueItems"}
MOST_NODES, DEEPEST = 2000, 32
PRESENT = "PRESENT"
SECONDS = 5.0  # for one question to the solver


@dataclass(slots=True, eq=False)
class Node:
    """A place in a JSON text.

    Args:
        path: its name, as `a.b[0]`; empty for the whole.
        schema: what is valid there.
        kind: a choice among scalars, an object or array with such places in it, or anything else.
        optional: whether the text may leave it out.
        values: of a leaf.
        name: of a property.
        at: the number of its choice; None where it has none.
        begin, end: its choices and those of all that is in it are the numbers from begin to before end.
        parts: by property, or by position.
        others: whether an object may have further properties.
    """

    path: str
    schema: Any
    kind: Literal["leaf", "object", "array", "free"]
    optional: bool
    values: tuple[Any, ...] = ()
    name: str = ""
    at: int | None = None
    begin: int = 0
    end: int = 0
    parts: dict[Any, Node] = field(default_factory=dict)
    others: bool = False


class Fields(Rules):
    """The fields of a schema, for `Json(schema, rules=...)`: names as `day`, `day.dish` and `dishes[0]`.

        def rules(fields):
            fields.model.add(fields.value("a") + fields.value("b") == 100).with_name("sums to 100")
            fields.model.add(fields.value("begin") < fields.value("end"))

        cp.constraints.Json(schema, rules=rules)

    `fields[name][value]` is a literal of OR-tools, `fields[name][ABSENT]` that an optional field or item is left out;
    `fields.value(name)` a linear expression. A field that may hold other values, or stands at no fixed place, is none.
    """

    def __init__(self, tree: Tree) -> None:
        super().__init__(tree.choices, kind="field", key_of=_key)
        self._tree = tree

    def settle_shape(self) -> None:
        """The constraints so far are no rules: messages don't name them."""
        self._num_own = len(self._model.proto.constraints)

    def _unknown(self, name: Any) -> str:
        return (
            super()._unknown(name)
            + " (enums, booleans and integers with both bounds, at a place that is always the same)"
        )


class Tree:
    """A schema as places and choices.

    Raises:
        ConstraintError: `uniqueItems` stands where it can't be kept.
    """

    def __init__(self, schema: Any) -> None:
        self.root: Any = schema if isinstance(schema, dict) else {}
        self.choices: list[Choice] = []
        self.unique: list[Node] = []
        self.top = self._node(schema, "", optional=False, inside=False, depth=0)
        self.unique = [node for node in self._all(self.top) if node.kind == "array" and node.schema.get("uniqueItems")]
        for node in self._all(self.top):
            if node.kind == "free":
                self._refuse_unique(node.schema, node.path, set())

    def _node(self, schema: Any, path: str, *, optional: bool, inside: bool, depth: int) -> Node:
        """Args: inside: whether a place around it may be left out."""
        number = len(self.choices)
        values = values_of(schema, self.root)
        if values is not None:
            node = Node(path, schema, "leaf", optional, values, at=number)
            options = (*values, ABSENT) if optional or inside else values
            self._choose(path or "$", options)
        else:
            whole = resolved(schema, self.root)
            kind = self._kind(whole)
            node = Node(path, schema if kind == "free" else whole, kind, optional)
            if kind != "free" and depth < DEEPEST:
                if optional:
                    node.at = number
                    self._choose(path, (PRESENT, ABSENT))
                self._fill(node, inside=inside or optional, depth=depth + 1)
                if len(self.choices) == number + optional and not whole.get("uniqueItems"):  # nothing to choose in it
                    del self.choices[number:]
                    node = Node(path, schema, "free", optional)
            elif kind != "free":
                node = Node(path, schema, "free", optional)
        node.begin, node.end = number, len(self.choices)
        return node

    def _choose(self, name: str, options: tuple[Any, ...]) -> None:
        if len(self.choices) >= MOST_NODES:
            raise ConstraintError(f"the schema has more than {MOST_NODES} fields and items to choose; use fewer")
        self.choices.append(Choice(name, options, tuple(map(_key, options))))

    def _kind(self, schema: Any) -> Literal["object", "array", "free"]:
        if not isinstance(schema, dict):
            return "free"
        is_object = schema.get("type") == "object" or ("type" not in schema and "properties" in schema)
        if is_object and schema.keys() <= OBJECT:
            properties, required = schema.get("properties"), schema.get("required", [])
            is_plain = (
                isinstance(properties, dict) and isinstance(required, list) and set(required) <= properties.keys()
            )
            return "object" if is_plain else "free"
        if schema.get("type") == "array" and schema.keys() <= ARRAY and self._most(schema) is not None:
            return "array"
        return "free"

    def _most(self, schema: Mapping[str, Any]) -> int | None:
        """Most items that an array has; None where it has no bound, or more than can be solved for."""
        prefix, items = schema.get("prefixItems", []), schema.get("items", True)
        least, most = schema.get("minItems", 0), schema.get("maxItems")
        if not isinstance(prefix, list) or not all(isinstance(n, int) for n in (least, most or 0)):
            return None
        if items is False:
            most = len(prefix) if most is None else min(most, len(prefix))
        if schema.get("uniqueItems"):
            found = [values_of(part, self.root) for part in (*prefix, *([] if items is False else [items]))]
            if None in found:
                return None
            # Of more items than values two would be the same.
            values = {key_of(value) for one in found for value in one or ()}
            most = len(values) if most is None else min(most, len(values))
            most = max(most, min(least, len(values) + 1))
        return most if most is not None and most <= MOST_NODES else None

    def _fill(self, node: Node, *, inside: bool, depth: int) -> None:
        schema = node.schema
        if node.kind == "object":
            node.others = schema.get("additionalProperties", True) is not False
            required = set(schema.get("required", []))
            for name, part in schema["properties"].items():
                path = f"{node.path}.{name}" if node.path else name
                node.parts[name] = self._node(part, path, optional=name not in required, inside=inside, depth=depth)
                node.parts[name].name = name
            return
        prefix, least = schema.get("prefixItems", []), schema.get("minItems", 0)
        for i in range(self._most(schema) or 0):
            part = prefix[i] if i < len(prefix) else schema.get("items", True)
            path = f"{node.path}[{i}]"
            node.parts[i] = self._node(part, path, optional=i >= least, inside=inside, depth=depth)
            if node.parts[i].kind == "free" and i >= least:
                # Whether it is there is a choice too: it says how long the array is.
                node.parts[i] = Node(path, part, "free", True, at=node.parts[i].begin)
                self._choose(path, (PRESENT, ABSENT))
                node.parts[i].begin, node.parts[i].end = len(self.choices) - 1, len(self.choices)

    def _all(self, node: Node) -> Iterator[Node]:
        yield node
        for part in node.parts.values():
            yield from self._all(part)

    def _refuse_unique(self, schema: Any, path: str, seen: set[int]) -> None:
        if isinstance(schema, list):
            for part in schema:
                self._refuse_unique(part, path, seen)
        if not isinstance(schema, dict) or id(schema) in seen:
            return
        seen.add(id(schema))
        most = schema.get("maxItems", 2)
        if schema.get("uniqueItems") is True and isinstance(most, (int, float)) and most > 1:
            raise ConstraintError(
                f"the JSON schema can't be kept: uniqueItems {f'in {path!r} ' if path else ''}needs items that are enums, "
                "booleans or integers with both bounds, in an array of bounded size at a place that is always the same; "
                "change it"
            )
        if isinstance(schema.get("$ref"), str):
            target = resolved({"$ref": schema["$ref"]}, self.root)
            self._refuse_unique(target, path, seen)
        for name, part in schema.items():
            if name in ("properties", "$defs", "definitions", "patternProperties", "dependentSchemas"):
                if name not in ("$defs", "definitions") and isinstance(part, dict):
                    for inner, below in part.items():
                        self._refuse_unique(below, f"{path}.{inner}" if path else inner, seen)
            elif name not in ("const", "enum", "default", "examples", "required"):
                self._refuse_unique(part, path, seen)


def compiled_with_rules(form: Json, vocabulary: Vocabulary) -> Compiled:
    """A JSON constraint with rules, or with `uniqueItems`, made ready for a vocabulary.

    Raises:
        ConstraintError: the rules can't be kept, or `uniqueItems` stands where it can't be.
    """
    from counterpoint.constraints.compiled import CompiledForm
    from counterpoint.constraints.field_reader import FieldReader
    from counterpoint.constraints.ruled import CompiledRules

    tree = Tree(json.loads(form.schema))
    if not tree.unique and form.rules is None:  # `uniqueItems` asks for nothing: it is false, or only a name
        return CompiledForm(FieldReader.whole(form, without_unique(json.loads(form.schema))), vocabulary)
    fields = Fields(tree)
    _keep_shape(fields, tree.top, None)
    fields.settle_shape()
    for node in tree.unique:
        _keep_unique(fields, node)
    if form.rules is not None:
        form.rules(fields)
    solver = fields.solver(seconds=SECONDS)
    reader = FieldReader(tree, solver, form)
    return CompiledRules(form, vocabulary, reader, form.after)


def without_unique(schema: Any) -> Any:
    """The schema without its `uniqueItems`, which llguidance does not know."""
    if isinstance(schema, list):
        return [without_unique(part) for part in schema]
    if not isinstance(schema, dict):
        return schema
    made: dict[str, Any] = {}
    for name, part in schema.items():
        if name == "properties" and isinstance(part, dict):
            made[name] = {key: without_unique(value) for key, value in part.items()}
        elif name in ("const", "enum", "default", "examples"):
            made[name] = part
        elif name != "uniqueItems" or not isinstance(part, bool):
            made[name] = without_unique(part)
    return made


def _keep_shape(fields: Fields, node: Node, around: Any) -> None:
    """What is inside of a place that is left out is left out too, and what must be there is there; arrays have no holes.

    Args:
        around: the literal that the nearest place around it that may be left out is there; None where there is none.
    """
    name = node.path or "$"
    there = around
    if node.at is not None and ABSENT in fields[name]:
        there = ~fields[name][ABSENT]
        if around is not None:
            fields.model.add_implication(there, around)
            if not node.optional:
                fields.model.add_implication(around, there)
    previous = None
    for part in node.parts.values():
        _keep_shape(fields, part, there)
        if node.kind == "array" and part.optional:
            here = ~fields[part.path][ABSENT]
            if previous is not None:
                fields.model.add_implication(here, previous)
            previous = here


def _keep_unique(fields: Fields, node: Node) -> None:
    places: dict[str, list[Any]] = {}
    for part in node.parts.values():
        for value in part.values:
            places.setdefault(key_of(value), []).append(fields[part.path][value])
    for literals in places.values():
        fields.model.add_at_most_one(literals).with_name(f"uniqueItems of {node.path or 'the array'}")


def _key(value: Any) -> str:
    if value is ABSENT:
        return "ABSENT"
    return key_of(value)
