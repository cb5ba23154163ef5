"""What the engine needs of a model, and how a model is loaded."""
