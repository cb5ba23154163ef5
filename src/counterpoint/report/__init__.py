"""Traces and comparisons to look at: in a terminal, as a page of its own, in a notebook.

counterpoint.report.trace(model, PROMPT, negative=NEGATIVE, guide=guide).save("out.html")
counterpoint.report.compare(model, PROMPT, negative=NEGATIVE, scales=[1, 3, 5], spaces=["log", "prob"])
"""

from counterpoint.report.compare import Comparison, compare
from counterpoint.report.metrics import Metrics
from counterpoint.report.traced import TraceReport, trace

__all__ = ["Comparison", "Metrics", "TraceReport", "compare", "trace"]
