"""How fast each stage of a video's work is, and how long it waits for the others."""

import contextlib
import time


class Stages:
    """Times stages that run side by side, each in one thread: `with stages.at('decode'): ...`, then `text`."""

    def __init__(self):
        self.seconds, self.began = {}, time.monotonic()

    @contextlib.contextmanager
    def at(self, name):
        """The time within this context is spent in stage `name`."""
        began = time.monotonic()
        try:
            yield
        finally:
            self.seconds[name] = self.seconds.get(name, 0.0) + time.monotonic() - began

    def text(self, n_frames):
        """A line of each stage's own rate and waiting time, over `n_frames`; the slowest hardly waits."""
        total = max(time.monotonic() - self.began, 1e-9)
        shown = (
            f'{name} {n_frames / max(seconds, 1e-9):.0f} ({max(0.0, 1 - seconds / total):.0%})'
            for name, seconds in self.seconds.items()
        )
        return 'Frames a second of each stage (and its time spent waiting): ' + ', '.join(shown)
