"""A record of every step of a generation: what each branch predicted, what guidance made of it, what was chosen.

trace = counterpoint.trace.record(model, PROMPT, negative=NEGATIVE, guide=guide, max_tokens=60)
counterpoint.trace.write(trace, "out.jsonl")
"""

from counterpoint.trace.jsonl import lines, read, write
from counterpoint.trace.record import ArtefactLimits, Seen, Step, Trace, TracedBranch
from counterpoint.trace.run import record, record_all, record_unguided, watched

__all__ = [
    "ArtefactLimits", "Seen", "Step", "Trace", "TracedBranch", "lines", "read", "record", "record_all", "record_unguided",
    "watched", "write",
]  # fmt: skip
