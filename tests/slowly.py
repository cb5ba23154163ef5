"""The command line with an engine that soon takes half a second for a step, so that what it works at can't be over before
something is done to it. `python tests/slowly.py STEPS ARGUMENT...` takes so many steps quickly each time it begins."""

import sys
import time

from counterpoint.cli import main
from counterpoint.engine import Engine


def slow_down(num_steps):
    step, add, left = Engine.step, Engine.add, [num_steps]

    def slowly(self):
        left[0] -= 1
        if left[0] < 0:
            time.sleep(0.5)
        return step(self)

    def begin(self, *args, **options):
        if self.is_idle:
            left[0] = num_steps
        return add(self, *args, **options)

    Engine.step, Engine.add = slowly, begin


if __name__ == "__main__":
    slow_down(int(sys.argv.pop(1)))
    main()
