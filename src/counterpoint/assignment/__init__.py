"""Each prompt gets one option, by what the guided model thinks of it, within capacities."""

from counterpoint.assignment.assign import Assigned, assign
from counterpoint.assignment.best import Assignment, best_assignment

__all__ = ["Assigned", "Assignment", "assign", "best_assignment"]
