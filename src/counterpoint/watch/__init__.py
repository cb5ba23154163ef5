"""Alarms while a text is written, from the numbers that each step has already.

watch = cp.Watch.fit(model, good)
cp.generate(model, PROMPT, negative=NEGATIVE, guide=guide, watch=watch, on_alarm="ease")
"""

from counterpoint.watch.watch import Watch

__all__ = ["Watch"]
