"""Control vectors: directions that are added to what a model's layers write.

vector = cp.Vector.fit(model, pairs)
cp.generate(model.with_vector(vector, 1.5), PROMPT)
"""

from counterpoint.vectors.vector import Vector

__all__ = ["Vector"]
