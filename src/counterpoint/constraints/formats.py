"""Values that are narrower than llguidance's own, which would take February 29 in any year, a leap second at any time, and
numbers with exponents that no float holds; and arrays so long that it would fill the memory before it refuses them."""

from __future__ import annotations

from typing import Any

from counterpoint.errors import ConstraintError

_LEAP = "(?:[0-9]{2}(?:0[48]|[2468][048]|[13579][26])|(?:[02468][048]|[13579][26])00)"
_DATE = (
    "(?:[0-9]{4}-(?:(?:0[13578]|1[02])-(?:0[1-9]|[12][0-9]|3[01])|(?:0[469]|11)-(?:0[1-9]|[12][0-9]|30)"
    f"|02-(?:0[1-9]|1[0-9]|2[0-8]))|{_LEAP}-02-29)"
)
_TIME = "(?:[01][0-9]|2[0-3]):[0-5][0-9]:[0-5][0-9](?:\\.[0-9]{1,9})?(?:Z|[+-](?:[01][0-9]|2[0-3]):[0-5][0-9])"
PATTERNS = {"date": f"^{_DATE}$", "time": f"^{_TIME}$", "date-time": f"^{_DATE}T{_TIME}$"}
LARGEST = 1e15  # of a number without bounds: it is written without an exponent then
MOST_ITEMS = 20_000  # that an array may ask for: llguidance lays each out, and counts them afterwards
VALUES = ("const", "enum", "default", "examples")  # keywords that hold values, not schemas


def narrowed(schema: Any) -> Any:
    """The schema with patterns in place of these formats and bounds of numbers; every text that it takes is one that the
    schema takes.

    Raises:
        ConstraintError: an array is to be longer than any answer.
    """
    if isinstance(schema, list):
        return [narrowed(part) for part in schema]
    if not isinstance(schema, dict):
        return schema
    patterns = schema.get("patternProperties")
    for given in [schema.get("pattern"), *(patterns if isinstance(patterns, dict) else ())]:
        if isinstance(given, str):
            check_pattern(f"the pattern {given[-24:]!r}", given)
    for name in ("minItems", "maxItems"):
        if isinstance(schema.get(name), (int, float)) and schema[name] > MOST_ITEMS:
            raise ConstraintError(f"{name} is {schema[name]!r:.24}; use {MOST_ITEMS} at most, or leave it out")
    made = {name: part if name in VALUES else narrowed(part) for name, part in schema.items()}
    if "number" in (made.get("type") if isinstance(made.get("type"), list) else [made.get("type")]):
        if not {"minimum", "exclusiveMinimum"} & made.keys():
            made["minimum"] = min([-LARGEST, *_bounds(made, "maximum", "exclusiveMaximum")])
        if not {"maximum", "exclusiveMaximum"} & made.keys():
            made["maximum"] = max([LARGEST, *_bounds(made, "minimum", "exclusiveMinimum")])
    pattern = PATTERNS.get(made["format"]) if isinstance(made.get("format"), str) else None
    if pattern is None:
        return made
    del made["format"]
    if "pattern" in made:
        # Where the value need not be a text, a pattern says nothing of the others either.
        return made | {"allOf": [*made.get("allOf", []), {"pattern": pattern}]}
    return made | {"pattern": pattern}


def check_pattern(name: str, pattern: str) -> None:
    """Raise where a regular expression ends in the middle of an escape, which llguidance would overlook."""
    if (len(pattern) - len(pattern.rstrip("\\"))) % 2:
        raise ConstraintError(f"{name} ends with a backslash that escapes nothing; write it twice, or leave it out")


def _bounds(schema: dict[str, Any], *names: str) -> list[float]:
    given = [schema.get(name) for name in names]
    return [2 * value for value in given if isinstance(value, (int, float)) and not isinstance(value, bool)]
