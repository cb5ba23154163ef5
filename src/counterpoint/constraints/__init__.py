"""Constraints on the output: a form that every answer keeps, while guidance pushes.

constraint = Json(schema).compile(model)     # once a model
state = constraint.start()                   # one for each sample
state.allowed(), state.accept(token_id), state.forced(), state.complete, state.fork()
"""

from counterpoint.constraints.kinds import Choices, Constraint, Grammar, Json, Regex
from counterpoint.constraints.plan import Plan
from counterpoint.constraints.rules import ABSENT

__all__ = ["ABSENT", "Choices", "Constraint", "Grammar", "Json", "Plan", "Regex"]
