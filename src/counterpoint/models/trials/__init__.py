"""What can this model do? Asked by trial, and remembered."""

from counterpoint.models.trials.abilities import Abilities, abilities_of
from counterpoint.models.trials.structure import Answer

__all__ = ["Abilities", "Answer", "abilities_of"]
