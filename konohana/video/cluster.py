"""A season on a Dask cluster: its workers annotate the episodes, each by a process of its own (see `workers`).

Every machine sees the videos, the outputs, the weights and this program under the same paths, in a shared folder. An
episode whose worker dies is given to another one.
"""

import asyncio
import contextlib
import logging
import socket
import uuid
from pathlib import Path

from konohana import files
from konohana.errors import UserError
from konohana.video import workers

TIMEOUTS = TimeoutError, asyncio.TimeoutError  # two classes in Python 3.10
PATIENCE = 10  # seconds for the scheduler to answer
NO_WORKERS = 30  # seconds for a first worker to be there


class Cluster:
    """A Dask cluster that annotates episodes; a context manager.

    address: of its scheduler, like 'tcp://192.168.1.2:8786'. `n` is the number of its workers.

    Raises:
        UserError: `distributed` is not installed; no scheduler answers at `address`; it has no workers.
    """

    def __init__(self, address):
        self.address = address
        try:
            import distributed
        except ImportError:
            raise UserError(f'dask_scheduler={address!r}: pip install distributed') from None
        self.distributed = distributed
        logging.getLogger('distributed').setLevel(logging.CRITICAL)  # what goes wrong is told here, in a line
        self.events = f'konohana-{uuid.uuid4().hex}'
        self.tell = {}

    def __enter__(self):
        client = self.distributed.Client
        try:
            self._knock()
            self.client = client(self.address, timeout=PATIENCE, set_as_default=False, name='konohana')
        except (OSError, *TIMEOUTS, ValueError, ImportError) as error:
            raise UserError(
                f'dask_scheduler={self.address!r}: no scheduler of Dask answers there ({files.reason(error)[:200]}). '
                "Start one by 'python -m dask scheduler' and give the address that it prints, like tcp://10.0.0.2:8786."
            ) from None
        try:
            self.client.wait_for_workers(1, timeout=NO_WORKERS)
        except TIMEOUTS:
            self.client.close()
            raise UserError(
                f'dask_scheduler={self.address!r}: it has no workers. Start them by '
                f"'python -m dask worker {self.address}', on each machine."
            ) from None
        self.n = len(self.client.nthreads())
        self.client.subscribe_topic(self.events, self._hear)
        return self

    def _knock(self):
        """OSError or ValueError where nobody listens at the address.

        A Client that has found nobody is cleaned up when Python collects it, and where that happens while the next one
        starts, both wait for each other for ever (distributed 2026.8).
        """
        where = self.distributed.comm.addressing
        host_and_port = where.parse_host_port(where.parse_address(self.address)[1], 8786)
        socket.create_connection(host_and_port, PATIENCE).close()

    def __exit__(self, *_):
        with contextlib.suppress(Exception):  # a scheduler that is gone
            self.client.close()

    def check_paths(self, folder, paths):
        """UserError where a worker does not see the same files: `paths`, and what is written to `folder`."""
        mark = Path(folder) / f'.{uuid.uuid4().hex}.tmp'
        try:
            mark.parent.mkdir(parents=True, exist_ok=True)
            mark.write_bytes(b'konohana')
        except OSError as error:
            raise UserError(f'{folder}: cannot write there ({files.reason(error)}). Choose another folder.') from None
        sizes = {str(path): Path(path).stat().st_size for path in [*paths, mark] if Path(path).is_file()}
        try:
            missing = self.client.run(_missing(), sizes)
        finally:
            mark.unlink(missing_ok=True)
        for worker, path in ((worker, path) for worker, unseen in missing.items() for path in unseen):
            what = f'what is written to {folder}' if path == str(mark) else path
            raise UserError(
                f'dask_scheduler={self.address!r}: its worker {worker} does not see {what}. Videos, outputs, weights '
                'and this program must be in a folder that all machines share, under the same path.'
            )

    def run_one(self, command, job, tell, stop):
        """Annotate one episode on some worker; see `workers.run_episode`."""
        key = f'{self.events}-{job.number}'
        self.tell[job.number] = tell
        event = self.distributed.Event(f'{key}-stop', client=self.client)
        future = self.client.submit(
            _on_worker(), *(command, job.name, job.number, self.events, f'{key}-stop', str(_project())),
            key=key, pure=False,
        )  # fmt: skip
        told = False
        while not future.done():
            if stop.wait(0.2) and not told:
                event.set()
                told = True
        try:
            return future.result()
        except (Exception, asyncio.CancelledError) as error:
            return workers.STOPPED if stop.is_set() else f'{job.name}: {_why(error)}'

    def _hear(self, event):
        """What a worker says: (time, [number of the job, kind, what])."""
        number, kind, what = event[1]
        self.tell[number](kind, what)


def _why(error):
    """Why the cluster could not annotate an episode."""
    name = type(error).__name__
    if name == 'KilledWorker':
        return 'each worker that had it has died, as they do where memory runs out'
    if name in ('CancelledError', 'FutureCancelledError', 'CommClosedError'):
        return 'the scheduler of Dask is gone; begin again, what is done is kept'
    return files.reason(error)[:200]


def _project():
    return Path(__file__).resolve().parents[2]


# What runs on the workers: functions inside functions, which Dask sends as they are. Others it would import there, but
# this program may not be installed there.


def _missing():
    def missing(sizes):
        """Which of the files {path: bytes} are not here, or have another size."""
        from pathlib import Path

        return [path for path, size in sizes.items() if not Path(path).is_file() or Path(path).stat().st_size != size]

    return missing


def _on_worker():
    def on_worker(command, name, number, events, stop, project):
        """Annotate one episode; its lines and its progress are events of the cluster."""
        import sys

        from distributed import Event, get_client, get_worker

        sys.path.insert(0, project)
        from konohana.video.workers import run_episode

        worker = get_worker()

        def tell(kind, what):
            worker.log_event(events, [number, kind, what])

        threads = worker.state.nthreads
        return run_episode([sys.executable, *command], name, threads, tell, Event(stop, client=get_client()))

    return on_worker
