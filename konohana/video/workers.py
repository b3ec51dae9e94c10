"""Several episodes at once: each is annotated by a process of its own, the script itself with one video.

A process says its lines and its progress through a pipe, and it lives no longer than whoever started it: its stdin is a
pipe too, and when that is closed it stops as by Ctrl-C and keeps what is done. So one that crashes, or is killed for
want of memory, takes no other episode along. The same function runs it on this machine and on a Dask cluster (see
`cluster`), so this module imports nothing large.
"""

import contextlib
import math
import os
import queue
import signal
import subprocess
import sys
import threading
import time

from konohana.onnx.sessions import chosen_threads, usable_cores
from konohana.worker import PROGRESS, WORKER

PATIENCE = 120  # seconds for an episode to keep what is done, before its process is killed
STOPPED = 'stopped'


def run_episode(command, name, threads, tell, stop):
    """Annotate one episode by a process, and wait for its end.

    Args:
        command: list of texts, the process to start. name: of the episode, for messages.
        threads: for the network; decoders and encoders take what is free.
        tell: function that is called with ('begun', None), ('progress', (done, total)) and ('line', text).
        stop: a `threading.Event`, or what waits like one; when it is set, the process stops and keeps what is done.

    Returns:
        '' when it is done, `STOPPED`, or a line that says why it failed.
    """
    tell('begun', None)
    environment = {**os.environ, WORKER: '1', 'OMP_NUM_THREADS': str(threads), 'PYTHONIOENCODING': 'utf-8'}
    # In a group of its own Ctrl-C does not reach it: it would be stopped twice, and the second time at once.
    process = subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, encoding='utf-8',
        errors='replace', env=environment, start_new_session=True,
        creationflags=getattr(subprocess, 'CREATE_NEW_PROCESS_GROUP', 0),
    )  # fmt: skip
    with process:
        watcher = threading.Thread(target=_end_when, args=(stop, process), daemon=True)
        watcher.start()
        error, last = _read(process.stdout, tell)
        status = process.wait()
        watcher.join()
    if not status:
        return ''
    if stop.is_set():
        return STOPPED
    return error or f'{name}: its process {_ended(status)}{f" ({last})" if status > 0 and last else ""}'


def _read(lines, tell):
    """Tell what a process says; returns (its error, its last line), '' for none."""
    error, last = '', ''
    for line in map(str.rstrip, lines):
        if line.startswith(PROGRESS):
            with contextlib.suppress(ValueError):
                done, total = map(int, line[1:].split())
                tell('progress', (done, total))
        elif line.startswith('Error: '):
            error = line.removeprefix('Error: ')
        elif line:
            last = line
            tell('line', line)
    return error, last


def _end_when(stop, process):
    """Close the process's stdin once `stop` is set; kill it if it does not end then."""
    while process.poll() is None and not stop.wait(0.2):
        pass
    with contextlib.suppress(OSError):
        process.stdin.close()
    try:
        process.wait(PATIENCE)
    except subprocess.TimeoutExpired:
        process.kill()


def _ended(status):
    """How a process ended, by its exit status."""
    if status >= 0:
        return 'was stopped' if status == 130 else f'ended with status {status}'
    try:
        name = signal.Signals(-status).name
    except ValueError:
        name = f'signal {-status}'
    return f'was killed by {name}' + (', as it is where memory runs out: take fewer workers' * (name == 'SIGKILL'))


def share_of_threads(n):
    """Threads for each of `n` processes on this machine."""
    cores = usable_cores()
    return max(1, min(cores, chosen_threads() or cores) // n)


def annotate_at_once(jobs, n, run_one, view):
    """Annotate several videos, `n` at a time. After Ctrl-C all of them stop and keep what is done.

    Args:
        jobs: list of `season.Job`.
        run_one: function of (job, tell, stop) that does what `run_episode` does.
        view: `View` that shows it.

    Returns:
        list of lines, one for each job that failed.

    Raises:
        KeyboardInterrupt: after Ctrl-C, once all have ended; a second Ctrl-C does not wait for that.
    """
    waiting, events, stop, failed = queue.SimpleQueue(), queue.SimpleQueue(), threading.Event(), []
    for job in jobs:
        waiting.put(job)

    def work():
        with contextlib.suppress(queue.Empty):
            while not stop.is_set():
                job = waiting.get_nowait()
                try:
                    reason = run_one(job, lambda kind, what, job=job: events.put((kind, job, what)), stop)
                except Exception as error:  # in a thread nobody would hear of it
                    reason = ' '.join(f'{job.name}: {type(error).__name__}: {error}'.split())
                events.put(('ended', job, reason))

    threads = [threading.Thread(target=work, daemon=True) for _ in range(min(n, len(jobs)))]
    for thread in threads:
        thread.start()
    try:
        _show(threads, events, view, failed)
    except KeyboardInterrupt:
        print('Stopping. What is done of each episode is kept.')
        stop.set()
        _show(threads, events, view, failed)
        raise
    return failed


def _show(threads, events, view, failed):
    """Show what happens until all threads have ended; `failed` gets the reasons."""
    while any(thread.is_alive() for thread in threads) or not events.empty():
        try:
            kind, job, what = events.get(timeout=0.5)
        except queue.Empty:
            continue
        getattr(view, kind)(job, what)
        if kind == 'ended' and what not in ('', STOPPED):
            failed.append(what)


class View:
    """What is shown while several episodes are annotated: the lines of each, under its name, and one bar for all.

    total: number of episodes. bar: a progress bar (see `progress_bar`) of `STEPS` for each episode.
    """

    STEPS = 1000

    def __init__(self, total, bar):
        self.total, self.bar, self.done, self.running = total, bar, 0, {}
        self.every, self.updated = (0.2 if sys.stderr.isatty() else 60), -math.inf  # a log gets a line each minute

    def begun(self, job, _what):
        """An episode is begun, or begun again on another machine."""
        # When it began; how many bars its process has had (one for looking, one for drawing); how far the last one is.
        self.running[job] = [time.monotonic(), 0, 0.0]

    def progress(self, job, what):
        """An episode is `done` of `total` steps further; what: (done, total)."""
        if job in self.running:
            done, total = what
            self.running[job][1] += done == 0
            self.running[job][2] = done / max(1, total)
            self._update()

    def line(self, job, text):
        """A process has said something."""
        print(f'{job}: {text}')

    def ended(self, job, reason):
        """An episode has ended, see `run_episode`."""
        began = self.running.pop(job, [time.monotonic()])[0]
        took = time.monotonic() - began
        how = {'': f'done in {took // 60:.0f}:{took % 60:02.0f}', STOPPED: 'stopped'}
        print(f'{job}: {how.get(reason) or f"Failed: {reason}"}')
        if reason != STOPPED:
            self.done += 1
            self._update()

    def _update(self):
        if time.monotonic() - self.updated < self.every:
            return
        self.updated = time.monotonic()
        parts = {job: min(1.0, max(0, bars - 1 + part) / 2) for job, (_, bars, part) in self.running.items()}
        names = [f'{job.name[-20:]} {part:.0%}' for job, part in parts.items()]
        more = f' and {len(names) - 3} more' * (len(names) > 3)
        running = ', '.join([f'{self.done} of {self.total} done', *names[:3]]) + more
        self.bar.update(int(self.STEPS * (self.done + sum(parts.values()))), running=running)
