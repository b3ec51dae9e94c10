"""A season on a Dask cluster: two workers on this machine, of which one is killed. The script is a stand-in."""

import os
import signal
import sys
import threading
import time

import pytest

from konohana.errors import UserError
from konohana.progress import progress_bar
from konohana.video import cluster, workers
from konohana.video.cluster import Cluster
from tests.test_season import FAKE, jobs_in

distributed = pytest.importorskip('distributed')


@pytest.fixture(scope='module')
def dask():
    with distributed.LocalCluster(
        n_workers=2, threads_per_worker=2, processes=True, dashboard_address=':0', silence_logs=50
    ) as local:
        yield local


def fake(one, job, *more):
    return one.run_one([str(FAKE), job.name.split()[0], str(job.target)], job, *more)


def kill_one(folder):
    """Kill the worker that annotates the first of two, once both are begun."""
    while len(begun := sorted(folder.glob('*.worker'))) < 2 or not all(path.read_text() for path in begun):
        time.sleep(0.05)
    os.kill(int(begun[0].read_text()), signal.SIGKILL)


def test_all_episodes_are_done_though_a_worker_is_killed(dask, tmp_path, capsys):
    jobs = jobs_in(tmp_path, 'while', 'while', 'good', 'wrong', 'crashed')
    with Cluster(dask.scheduler_address) as one, progress_bar('', 5000, False) as bar:
        assert one.n == 2
        threading.Thread(target=kill_one, args=(tmp_path,), daemon=True).start()
        failed = workers.annotate_at_once(
            jobs, one.n, lambda job, *more: fake(one, job, *more), workers.View(len(jobs), bar)
        )
    assert sorted(failed) == sorted(
        [
            f'{jobs[3].target}: not a video',
            'crashed 5.mkv: its process ended with status 1 (RuntimeError: no such thing)',
        ]
    )
    assert all(job.target.is_file() for job in jobs[:3])
    shown = capsys.readouterr().out
    assert '1/5 while 1.mkv: 2 threads' in shown and shown.count(': done in') == 3
    first = {path.read_text().split()[0] for path in tmp_path.glob('*.worker')}
    assert len(first) == 2  # an episode at a time for each, though they have two threads
    assert sorted(len(path.read_text().split()) for path in tmp_path.glob('*.worker')) == [1, 2]


def test_ctrl_c_stops_what_runs_on_the_cluster(dask, tmp_path):
    stop, (job,) = threading.Event(), jobs_in(tmp_path, 'slow')
    with Cluster(dask.scheduler_address) as one:
        begun = threading.Event()
        threading.Thread(target=lambda: (begun.wait(20), stop.set()), daemon=True).start()
        assert fake(one, job, lambda kind, _: kind == 'line' and begun.set(), stop) == workers.STOPPED
    assert job.target.with_name('1.out_partial').read_text() == 'kept'


def test_folders_that_workers_do_not_see_are_named(dask, tmp_path, monkeypatch):
    (tmp_path / 'a.mkv').write_bytes(b'video')
    with Cluster(dask.scheduler_address) as one:
        one.check_paths(tmp_path / 'out', [tmp_path / 'a.mkv', 'https://a.b/c.mkv'])
        assert not list((tmp_path / 'out').iterdir())
        monkeypatch.setattr(
            cluster, '_missing', lambda: lambda sizes: [path for path in sizes if path.endswith('.tmp')]
        )
        with pytest.raises(UserError, match=r'does not see what is written to .*out.*a folder that all machines share'):
            one.check_paths(tmp_path / 'out', [tmp_path / 'a.mkv'])
        monkeypatch.setattr(
            cluster, '_missing', lambda: lambda sizes: [path for path in sizes if path.endswith('.mkv')]
        )
        with pytest.raises(UserError, match=r'worker tcp://.* does not see .*a\.mkv'):
            one.check_paths(tmp_path / 'out', [tmp_path / 'a.mkv'])
        assert not list((tmp_path / 'out').iterdir())
        (tmp_path / 'file').write_bytes(b'')
        with pytest.raises(UserError, match='cannot write there'):
            one.check_paths(tmp_path / 'file' / 'out', [])


@pytest.mark.parametrize('address', ['tcp://127.0.0.1:1', 'nonsense://a', 'a b c', '127.0.0.1:1', 'tcp://'])
def test_no_scheduler_is_one_line_soon(address, monkeypatch):
    monkeypatch.setattr(cluster, 'PATIENCE', 1)
    began = time.monotonic()
    with pytest.raises(UserError, match='no scheduler of Dask answers there') as caught, Cluster(address):
        pass
    assert '\n' not in str(caught.value) and 'dask scheduler' in str(caught.value) and len(str(caught.value)) < 400
    assert time.monotonic() - began < 20


def test_a_scheduler_without_workers_is_one_line(monkeypatch):
    monkeypatch.setattr(cluster, 'NO_WORKERS', 0.3)
    with distributed.LocalCluster(n_workers=0, processes=False, protocol='tcp://', dashboard_address=':0') as local:
        with pytest.raises(UserError, match='it has no workers'), Cluster(local.scheduler_address):
            pass


def test_what_is_missing_is_said(monkeypatch):
    monkeypatch.setitem(sys.modules, 'distributed', None)
    with pytest.raises(UserError, match='pip install distributed'):
        Cluster('tcp://a:1')


def test_the_script_says_it_too(run_script, weights_file, tmp_path, monkeypatch):
    (tmp_path / 'show').mkdir()
    (tmp_path / 'show' / 'a.mkv').write_bytes(b'no video')
    monkeypatch.setitem(sys.modules, 'distributed', None)
    command = ('_test_with_video.py', f'weights={weights_file}', f'video_out={tmp_path}', 'dask_scheduler=tcp://a:1')
    done = run_script(*command, f'video_in={tmp_path / "show"}')
    assert (
        done.returncode == 2 and done.stderr.endswith(': pip install distributed\n') and 'Traceback' not in done.stderr
    )
    done = run_script(*command, f'video_in={tmp_path / "show" / "a.mkv"}')
    assert done.returncode == 2 and 'this one is annotated here' in done.stdout
