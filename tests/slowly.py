"""Work that can't be over before something is done to it.

`python tests/slowly.py STEPS ARGUMENT...` is the command line with an engine that takes so many steps quickly, and half a
second for each other one.
"""

import signal
import sys
import time

HELD_S = 3600


def slow_down(num_steps):
    from counterpoint.engine import Engine

    step, left = Engine.step, [num_steps]

    def slowly(self):
        left[0] -= 1
        if left[0] < 0:
            time.sleep(0.5)
        return step(self)

    Engine.step = slowly


def hold_at_checkpoint(number):
    """Training that goes no further than this checkpoint."""
    from counterpoint.train import checkpoint

    save, saved = checkpoint.save, []

    def held(path, state):
        save(path, state)
        saved.append(path)
        if len(saved) == number:
            time.sleep(HELD_S)

    checkpoint.save = held


if __name__ == "__main__":
    from counterpoint.cli import main

    slow_down(int(sys.argv.pop(1)))
    signal.signal(signal.SIGINT, signal.default_int_handler)  # what runs in the background inherits that it is ignored
    main()
