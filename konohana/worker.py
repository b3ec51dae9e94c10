"""What a process does that works for another one: it says how far it is in lines, and it ends with who started it.

The other one is `_test_with_video.py` with several workers; see `video.workers`, which starts such processes.
"""

import _thread
import contextlib
import os
import signal
import threading
import time

WORKER = 'KONOHANA_WORKER'  # in the environment: this process is one
PROGRESS = '\x1e'  # begins a line that says how far it is: 'done total'
EVERY = 0.5  # seconds between two such lines


def is_worker():
    """Whether this process works for another one."""
    return WORKER in os.environ


def end_with_parent():
    """As a worker: stop as by Ctrl-C when stdin is closed, because who started this process wants that or has died."""
    if is_worker():
        threading.Thread(target=_wait_for_end, args=(threading.main_thread().ident,), daemon=True).start()


def _wait_for_end(main):
    with contextlib.suppress(OSError):
        while os.read(0, 1024):  # not sys.stdin: its lock would be held at the end of Python
            pass
    if hasattr(signal, 'pthread_kill'):
        signal.pthread_kill(main, signal.SIGINT)  # it ends waiting too
    else:
        _thread.interrupt_main()


class Lines:
    """A progress bar for the process that started this one: lines of `PROGRESS`. See `progress.progress_bar`."""

    def __init__(self, total):
        self.max_value, self.said = total, time.monotonic()
        self._say(0)

    def update(self, done, **_values):
        """Say that `done` of all steps are done, now and then."""
        if time.monotonic() - self.said >= EVERY:
            self._say(done)

    def _say(self, done):
        self.said = time.monotonic()
        print(f'{PROGRESS}{done} {self.max_value}', flush=True)
