"""Which fields a JSON text has written so far, read byte by byte. The grammar sees to it that the text is JSON."""

from __future__ import annotations

import json
from collections.abc import Hashable, Iterable
from dataclasses import dataclass, replace
from typing import Any, Literal

from counterpoint.constraints.fields import Node, Tree, without_unique
from counterpoint.constraints.finite import NOTES, key_of
from counterpoint.constraints.kinds import Constraint, Json
from counterpoint.constraints.ruled import Reader
from counterpoint.constraints.solving import Chosen, Solver

SPACE = b" \t\r\n"
ENDS = b",]}" + SPACE  # of a number, true, false or null
FREE = Node("", True, "free", optional=True)


@dataclass(frozen=True, slots=True)
class _Open:
    """An object or array that is open.

    Args:
        node: its place.
        parts: the places in it, in order.
        behind: how many of them are behind, left out or begun.
    """

    node: Node
    is_object: bool
    parts: tuple[Node, ...]
    behind: int = 0

    @property
    def left(self) -> tuple[Node, ...]:
        """The places that may still come."""
        return self.parts[self.behind :]


class FieldReader(Reader):
    """Reads JSON.

    Args:
        tree: the schema.
        solver: the rules over its choices.
        form: the constraint.
    """

    def __init__(self, tree: Tree, solver: Solver, form: Json) -> None:
        self._tree, self._solver, self._form = tree, solver, form
        self._chosen: Chosen = ()
        self._open: tuple[_Open, ...] = ()
        self._node = tree.top  # the place of the value that is written or comes next
        self._mode = "value"  # or "first" of an array, "key", "first key", "colon", "string", "scalar", "next", "end"
        self._is_key = self._is_escaped = False
        self._typed = b""  # of the key or scalar that is written, where it matters

    @property
    def key(self) -> Hashable:
        return self._chosen

    @property
    def complete(self) -> bool:
        return self._mode == "end" or (self._mode == "scalar" and not self._open)

    @property
    def settled(self) -> bool:
        return len(self._chosen) == len(self._tree.choices)

    @property
    def free(self) -> Hashable | None:
        if self._mode == "string" and self._is_key:
            is_free = not self._nameable() and self._others_go()
        elif self._mode in ("string", "scalar", "colon"):
            is_free = self._node.kind == "free" and (self._mode != "colon" or self._node.at is None)
        else:
            is_free = self._mode in ("value", "first") and bool(self._open) and self._open[-1].node.kind == "free"
        if not is_free:
            return None
        return (self._mode, self._is_key, self._is_escaped, self._chosen, self._open)

    def after(self, text: bytes) -> FieldReader | None:
        other = self._copy()
        for byte in text:
            if not other._feed(byte):
                return None
        return other if other._goes_on(len(self._chosen)) else None

    def form(self) -> Constraint:
        schema = self._schema(self._tree.top)
        if isinstance(schema, dict):  # what references lead to
            schema |= {name: self._tree.root[name] for name in ("$defs", "definitions") if name in self._tree.root}
        return self.whole(self._form, without_unique(schema))

    @staticmethod
    def whole(form: Json, schema: Any) -> Json:
        """The same constraint on another schema, without rules."""
        return Json(schema, after=form.after, whitespace=form.whitespace)

    def _copy(self) -> FieldReader:
        other = object.__new__(FieldReader)
        other.__dict__.update(self.__dict__)
        return other

    # reading

    def _feed(self, byte: int) -> bool:
        """Read one byte; False where it decides what can't be."""
        if self._mode == "string":
            return self._in_string(byte)
        if self._mode == "scalar":
            if byte not in ENDS:
                self._typed += bytes([byte])
                return True
            if not self._end_value():
                return False
        if byte in SPACE:
            return True
        if self._mode == "colon":
            self._mode = "value"
            return True
        if byte in b"]}":
            return self._close()
        if self._mode == "next":
            self._mode = "key" if self._open[-1].is_object else "value"
            return True
        if self._mode in ("key", "first key"):
            self._mode, self._is_key, self._typed = "string", True, b'"'
            return True
        return self._begin_value(byte)

    def _in_string(self, byte: int) -> bool:
        if self._is_key or self._node.kind == "leaf":
            self._typed += bytes([byte])
        if self._is_escaped:
            self._is_escaped = False
        elif byte == 0x5C:
            self._is_escaped = True
        elif byte == 0x22:
            return self._end_key() if self._is_key else self._end_value()
        return True

    def _begin_value(self, byte: int) -> bool:
        if self._open and not self._open[-1].is_object:
            self._node = self._begin_part(0)
        node = self._node
        if node.at is not None and node.kind != "leaf":
            self._chosen += (0,)  # it is there
        self._typed = bytes([byte])
        if byte == 0x22:
            self._mode, self._is_key = "string", False
        elif byte in b"{[":
            self._open += (_Open(node, byte == 0x7B, tuple(node.parts.values())),)
            self._mode = "first key" if byte == 0x7B else "first"
        else:
            self._mode = "scalar"
        return True

    def _begin_part(self, skipped: int) -> Node:
        """Go to a part of what is open, past some that are left out."""
        last = self._open[-1]
        if skipped >= len(last.left):
            skipped, found = len(last.left) - 1, FREE
        else:
            found = last.left[skipped]
        self._open = (*self._open[:-1], replace(last, behind=last.behind + skipped + 1))
        return found

    def _end_value(self) -> bool:
        node = self._node
        if node.kind == "leaf":
            option = self._option(node)
            if option is None:
                return False
            self._chosen += (option,)
        self._typed = b""
        self._mode = "next" if self._open else "end"
        return True

    def _option(self, node: Node) -> int | None:
        try:
            return [key_of(value) for value in node.values].index(key_of(json.loads(self._typed)))
        except (ValueError, TypeError):
            return None

    def _end_key(self) -> bool:
        last, name = self._open[-1], json.loads(self._typed)
        self._mode, self._typed, self._is_key = "colon", b"", False
        found = last.node.parts.get(name)
        skipped = last.left.index(found) if found in last.left else len(last.left)
        absent = self._absent(last.left[:skipped])
        if absent is None:
            return False
        self._chosen += absent
        self._node = self._begin_part(skipped)
        return True

    def _close(self) -> bool:
        absent = self._absent(self._open[-1].left)
        if absent is None:
            return False
        self._chosen += absent
        self._open = self._open[:-1]
        self._mode = "next" if self._open else "end"
        return True

    # what can follow

    def _absent(self, parts: Iterable[Node]) -> Chosen | None:
        """The options that leave these places out; None where one has to be there."""
        found: Chosen = ()
        for part in parts:
            if not part.optional:
                return None
            found += tuple(len(choice.options) - 1 for choice in self._tree.choices[part.begin : part.end])
        return found

    def _goes_on(self, num_before: int) -> bool:
        """Whether some way of going on keeps the rules, after choices of which so many were known to be right."""
        if len(self._chosen) > num_before and not self._solver.keeps(self._chosen):
            return False
        if self._mode == "key" or (self._mode == "string" and self._is_key):
            return bool(self._nameable()) or self._others_go()
        if self._mode in ("colon", "value"):
            is_item = self._mode == "value" and self._open and not self._open[-1].is_object
            left = self._open[-1].left if is_item else ()
            return (
                not is_item
                and self._can_be_there(self._node, self._chosen)
                or bool(is_item and (not left or self._can_be_there(left[0], self._chosen)))
            )
        if self._mode in ("string", "scalar") and self._node.kind == "leaf":
            texts = [self._node.values[i] for i in self._there(self._node, self._chosen)]
            return any(isinstance(v, float) or _text(v).startswith(self._typed) for v in texts)
        return True

    def _there(self, node: Node, chosen: Chosen) -> list[int]:
        """The options of a place, whose choice is the next, with which it is there."""
        most = len(node.values) if node.kind == "leaf" else 1
        return [option for option in self._solver.possible(chosen) if option < most]

    def _can_be_there(self, node: Node, chosen: Chosen) -> bool:
        return node.at is None or bool(self._there(node, chosen))

    def _nameable(self) -> bool:
        """Whether a property of the schema can come whose name begins as what is written of a name."""
        last, typed = self._open[-1], self._typed if self._is_key else b""
        for skipped, part in enumerate(last.left):
            absent = self._absent(last.left[:skipped])
            if absent is None:
                return False
            if _text(part.name).startswith(typed):
                chosen = self._chosen + absent
                if self._solver.keeps(chosen) and self._can_be_there(part, chosen):
                    return True
        return False

    def _others_go(self) -> bool:
        """Whether a property can come that the schema does not name: after it, none that it names."""
        last = self._open[-1]
        if last.node.kind != "object":
            return True
        absent = self._absent(last.left)
        return last.node.others and absent is not None and self._solver.keeps(self._chosen + absent)

    # the grammar

    def _presence(self, node: Node) -> Literal["must", "may", "never"]:
        if node.at is None or node.at > len(self._chosen):
            return "may" if node.optional else "must"
        absent = len(self._tree.choices[node.at].options) - 1
        if node.at < len(self._chosen):
            is_left_out = node.optional and self._chosen[node.at] == absent
            return "never" if is_left_out else "must"
        possible = self._solver.possible(self._chosen)
        if not node.optional or absent not in possible:
            return "must"
        return "may" if len(possible) > 1 else "never"

    def _schema(self, node: Node) -> Any:
        if node.kind == "leaf":
            assert node.at is not None
            if node.at < len(self._chosen):
                return {"const": node.values[self._chosen[node.at]]}
            if node.at == len(self._chosen):
                return {"enum": [node.values[i] for i in self._there(node, self._chosen)]}
            return {"enum": list(node.values)}
        if node.kind == "free":
            return node.schema
        made = {name: value for name, value in node.schema.items() if name in NOTES}
        presence = {name: self._presence(part) for name, part in node.parts.items()}
        if node.kind == "object":
            kept = {name: part for name, part in node.parts.items() if presence[name] != "never"}
            made |= {"type": "object", "properties": {name: self._schema(part) for name, part in kept.items()}}
            made["required"] = [name for name in kept if presence[name] == "must"]
            return made | {"additionalProperties": node.schema.get("additionalProperties", True)}
        listed = list(presence.values())
        most = listed.index("never") if "never" in listed else len(listed)
        least = listed.index("may") if "may" in listed[:most] else most
        items = [self._schema(part) for part in list(node.parts.values())[:most]]
        return made | {"type": "array", "prefixItems": items, "items": False, "minItems": least, "maxItems": most}


def _text(value: Any) -> bytes:
    return json.dumps(value, ensure_ascii=False).encode()
