"""Counterpoint: classifier-free guidance for text generation."""
