"""What can this model do? Asked by trial, and remembered."""

from counterpoint.models.trials.abilities import Abilities, abilities_of
from counterpoint.models.trials.own_loop import LoopCall
from counterpoint.models.trials.structure import Answer

__all__ = ["Abilities", "Answer", "LoopCall", "abilities_of"]
