from traced import forced, make_trace, model

__all__ = ["forced", "make_trace", "model"]
