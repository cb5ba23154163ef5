"""Tests of the engine need vLLM, which has an environment of its own: scripts/test-vllm. The others run anywhere."""

import sys
from pathlib import Path

from counterpoint.vllm import versions

if versions.installed() in versions.SUPPORTED:
    collect_ignore_glob = []
    sys.path.insert(0, str(Path(__file__).parent))  # engines, stateless, tiny_models
else:
    collect_ignore_glob = ["test_engine_*.py"]
