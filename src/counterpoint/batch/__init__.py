"""Many prompts as lines of JSON: reading them, and running them through one engine."""

from counterpoint.batch.lines import FIELDS, Line, read_line, read_lines
from counterpoint.batch.run import Answer, run_all

__all__ = ["FIELDS", "Answer", "Line", "read_line", "read_lines", "run_all"]
