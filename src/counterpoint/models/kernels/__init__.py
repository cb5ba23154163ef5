"""What torch's own operators do well below the memory's speed on a CPU, in C: torch operators over one small library.

`build` compiles and loads it; each of the others is one operator, its check against torch, and its C file.
"""
