"""Ctrl-C and polite kills."""

import signal


class StopRequest:
    """Turns the first Ctrl-C (or a polite kill) into a request that the loop obeys between two iterations.

    A second Ctrl-C stops at once. Use as a context manager.
    """

    def __init__(self):
        self.requested = False

    def __enter__(self):
        self.previous = {s: signal.signal(s, self._handle) for s in (signal.SIGINT, signal.SIGTERM)}
        return self

    def __exit__(self, *_):
        for number, handler in self.previous.items():
            signal.signal(number, handler)

    def _handle(self, *_):
        if self.requested:
            raise KeyboardInterrupt
        self.requested = True


def ignore_interrupts(_worker_id):
    """For loader processes: Ctrl-C is the main process's to handle."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
