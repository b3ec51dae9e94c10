"""Ctrl-C and what counts as Ctrl-C: SIGTERM (kill, a shutdown, docker stop) and SIGHUP (the terminal is closed)."""

import contextlib
import os
import signal
import sys
import threading

# Windows has no SIGHUP.
SIGNALS = tuple(getattr(signal, name) for name in ('SIGINT', 'SIGTERM', 'SIGHUP') if hasattr(signal, name))

GRACE = 30  # seconds


@contextlib.contextmanager
def handling(handler):
    """Call `handler(signal number)` on Ctrl-C, SIGTERM and SIGHUP while the block runs.

    Only the main thread can handle signals; elsewhere the block runs as it is. Under nohup SIGHUP is ignored, and
    stays so. A terminal that closes may send SIGHUP several times: `handler` hears the first, and SIGHUP stays
    ignored.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def handle(number, _frame):
        if number == getattr(signal, 'SIGHUP', None):
            signal.signal(number, signal.SIG_IGN)
            _leave_terminal(terminals)
        handler(number)

    # To be asked now: a terminal that is closed no longer says that it is one.
    terminals = [stream.fileno() for stream in (sys.__stdout__, sys.__stderr__) if _is_terminal(stream)]
    ignored = {number for number in SIGNALS[1:] if signal.getsignal(number) is signal.SIG_IGN}
    previous = {number: signal.signal(number, handle) for number in SIGNALS if number not in ignored}
    try:
        yield
    finally:
        for number, old in previous.items():
            if signal.getsignal(number) is not signal.SIG_IGN:
                signal.signal(number, old or signal.SIG_DFL)


@contextlib.contextmanager
def raising():
    """Raise KeyboardInterrupt, as Ctrl-C does, on SIGTERM and SIGHUP too while the block runs."""

    def handler(_number):
        raise KeyboardInterrupt

    with handling(handler):
        yield


@contextlib.contextmanager
def patient():
    """Raise KeyboardInterrupt on the first Ctrl-C, SIGTERM or SIGHUP in the block, and none on the second.

    After the first the block's threads end and what is done is kept, which a second would spoil. A third raises again.
    """
    seen = []

    def handler(number):
        seen.append(number)
        if len(seen) != 2:
            raise KeyboardInterrupt

    with handling(handler):
        yield


class StopRequest:
    """Turns the first Ctrl-C, SIGTERM or SIGHUP into a request that the loop obeys between two iterations.

    A second Ctrl-C or SIGTERM stops at once. Use as a context manager.

    Attributes:
        requested: whether the loop should stop.
    """

    def __init__(self):
        self.requested = False
        self.seen = set()

    def __enter__(self):
        self.stack = contextlib.ExitStack()
        self.stack.enter_context(handling(self._handle))
        return self

    def __exit__(self, *error):
        self.stack.close()

    def _handle(self, number):
        # One Ctrl-C under torchrun arrives as SIGINT and as SIGTERM: only the same again is the user's second.
        if number in self.seen:
            raise KeyboardInterrupt
        self.seen.add(number)
        self.requested = True


def ignore_interrupts(_worker_id=0):
    """For loader processes: Ctrl-C, SIGHUP and SIGTERM may reach all processes, but the main one is to handle them.

    DataLoader ends its processes by SIGTERM if all else fails. So SIGTERM does end them, but only `GRACE` seconds
    later: until then the main process can finish its step and save.
    """
    for number in SIGNALS:
        signal.signal(number, signal.SIG_IGN)
    if hasattr(signal, 'alarm'):  # Windows has none, nor a SIGTERM that a process could ignore
        signal.signal(signal.SIGTERM, lambda *_: signal.alarm(GRACE))


def _is_terminal(stream):
    return stream is not None and not stream.closed and stream.isatty()


def _leave_terminal(terminals):
    """Send what is still printed nowhere: writing to a closed terminal fails and would end the saving that follows."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    for number in terminals:
        os.dup2(nowhere, number)
    os.close(nowhere)
