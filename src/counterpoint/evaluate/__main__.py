"""lm-evaluation-harness' own command line with `--model counterpoint` known to it."""

from lm_eval.__main__ import cli_evaluate

import counterpoint.evaluate.harness  # noqa: F401  registers the model

if __name__ == "__main__":
    cli_evaluate()
