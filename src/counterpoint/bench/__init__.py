"""Measurements of the engine against transformers' own `generate`, side by side in one run."""
