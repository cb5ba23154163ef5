"""How much guidance changed a choice, in a few steps that a page and a terminal can colour."""

from __future__ import annotations

from counterpoint.trace import Step

#: Nats from which a shade begins: a probability multiplied by 1.3, by 2.7, by 20.
BOUNDS = (0.25, 1.0, 3.0)


def shade(step: Step) -> int:
    """-3 (made much less probable) to 3 (made much more probable); 0 is hardly changed."""
    level = sum(abs(step.push) >= bound for bound in BOUNDS)
    return level if step.push > 0 else -level


def notable(steps: tuple[Step, ...], num: int = 30) -> list[Step]:
    """The artefacts, then the steps that guidance changed most; at most `num`."""
    artefacts = [step for step in steps if step.artefact]
    others = sorted((s for s in steps if not s.artefact and shade(s)), key=lambda s: -abs(s.push))
    return (artefacts + others)[:num]
