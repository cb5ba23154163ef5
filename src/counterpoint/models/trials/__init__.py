"""What can a model do? Trials find out, and the answers are remembered."""

from counterpoint.models.trials.abilities import Abilities, abilities_of
from counterpoint.models.trials.own_loop import LoopCall
from counterpoint.models.trials.structure import Answer

__all__ = ["Abilities", "Answer", "LoopCall", "abilities_of"]
