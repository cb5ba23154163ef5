"""`python -m counterpoint.vllm MODEL ...`: vLLM's server with guidance."""

import sys

from counterpoint.vllm.launcher import main

if __name__ == "__main__":
    sys.exit(main())
