"""Models from GGUF files: the `gguf` package reads them, transformers' own tables say what they mean."""
