"""Conditions as the text of a header. Knows nothing of tokens."""

import random

from counterpoint.train.config import HeaderConfig, SourceConfig


def _one(values: tuple[str, ...], vague: tuple[str, ...], rng: random.Random) -> str:
    """The value of a field: all that say something, or now and then one of them alone."""
    telling = [v for v in values if v not in vague] or [values[0]]
    if len(telling) > 1 and rng.random() < 0.4:
        telling = [rng.choice(telling)]
    return ", ".join(telling)


def header(
    conditions: dict[str, tuple[str, ...]], source: SourceConfig, config: HeaderConfig, rng: random.Random
) -> str:
    """The text before a record's own text, "" where the whole header is dropped.

    The joint is included but for a space at its end, which is part of the next word's token and belongs to the text.

    A value ends where its template says, so "Genre: {}." gives `Genre: mystery.`; a value's own full stop is not doubled.
    """
    present = [name for name in source.fields if name in conditions and len(conditions[name]) <= 3]
    free = [name for name in present if name not in source.required]
    if rng.random() < config.drop_all:
        free = []
    elif len(free) > 1:
        if rng.random() < config.drop_field:
            free.remove(rng.choice(free))
        if rng.random() < config.shuffle:
            rng.shuffle(free)
    parts = []
    for name in free + [name for name in present if name in source.required]:
        value = _one(conditions[name], source.vague, rng)
        if name in source.lower:
            value = value.lower()
        text = source.fields[name].replace("{}", value).replace("..", ".")
        parts.append(text[0].upper() + text[1:])
    lead = ""
    if source.before in conditions and rng.random() >= source.before_drop:
        lead = conditions[source.before][0] + "\n\n"
    return lead + " ".join(parts) + source.joint.rstrip(" ") if parts else lead
