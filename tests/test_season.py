"""Several episodes at once, and what counts as done: a worker that fails takes no other along, nothing is lost."""

import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
import types
import weakref
from pathlib import Path

import pytest

from konohana import files
from konohana.errors import UserError
from konohana.progress import progress_bar
from konohana.toy.writer import write_video
from konohana.video import season, workers
from tests.conftest import PROJECT, load_script, make_weights
from tests.test_video import decoded, planes

FAKE = PROJECT / 'tests' / 'season_worker.py'


def jobs_in(folder, *whats):
    return [
        season.Job(number, len(whats), folder / f'{what} {number}.mkv', folder / f'{number}.out')
        for number, what in enumerate(whats, 1)
    ]


def run_fake(job, tell, stop):
    """As the script would: what is done is the first word of the episode's name."""
    command = [sys.executable, str(FAKE), job.name.split()[0], str(job.target)]
    return workers.run_episode(command, job.name, 3, tell, stop)


def at_once(jobs, n=2, run_one=run_fake):
    with progress_bar('Season', workers.View.STEPS * len(jobs), False) as bar:
        return workers.annotate_at_once(jobs, n, run_one, workers.View(len(jobs), bar))


def test_who_fails_takes_no_other_along(tmp_path, capsys):
    jobs = jobs_in(tmp_path, 'good', 'killed', 'crashed', 'wrong', 'good')
    failed = at_once(jobs)
    assert len(failed) == 3 and all('\n' not in line for line in failed)
    assert any(line.startswith('killed 2.mkv: its process was killed by SIGKILL, as it is where') for line in failed)
    assert 'crashed 3.mkv: its process ended with status 1 (RuntimeError: no such thing)' in failed
    assert f'{jobs[3].target}: not a video' in failed
    assert [job.target.exists() for job in jobs] == [True, False, False, False, True]
    shown = capsys.readouterr().out
    assert '1/5 good 1.mkv: 3 threads' in shown and re.search(r'5/5 good 5\.mkv: done in \d', shown)
    assert workers.PROGRESS not in shown and '\x1e' not in shown
    with pytest.raises(UserError, match=r'^3 of 5 videos were not annotated: .*killed 2\.mkv') as caught:
        season.tell_failed([*failed, failed[0]][:3], jobs)
    assert '\n' not in str(caught.value)


def test_what_all_say_is_told_once(tmp_path):
    with pytest.raises(UserError, match=r"^2 of 2 videos were not annotated: device='tpu': no$"):
        season.tell_failed(["device='tpu': no"] * 2, jobs_in(tmp_path, 'a', 'b'))


def test_an_error_of_ours_in_a_thread_is_told(tmp_path):
    def broken(*_):
        raise ValueError('two\nlines')

    assert at_once(jobs_in(tmp_path, 'a', 'b'), 2, broken) == [
        f'{k} {n}.mkv: ValueError: two lines' for k, n in ('a1', 'b2')
    ]


@pytest.mark.skipif(os.name == 'nt', reason='Windows has other signals')
def test_ctrl_c_stops_all_once_and_begins_none(tmp_path, capsys):
    jobs = jobs_in(tmp_path, 'slow', 'slow', 'good')
    begun = []

    def run_one(job, tell, stop):
        def hear(kind, what):
            tell(kind, what)
            begun.extend([job.name] * (kind != 'begun'))  # on a busy machine its process takes a while
            if len(set(begun)) == 2 and interrupt.ident is None:
                interrupt.start()

        return run_fake(job, hear, stop)

    interrupt = threading.Timer(0.3, os.kill, (os.getpid(), signal.SIGINT))
    # A shell's background process ignores Ctrl-C, and so would these tests if they ran in one.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with pytest.raises(KeyboardInterrupt):
            at_once(jobs, run_one=run_one)
    finally:
        signal.signal(signal.SIGINT, before)
    assert sorted(path.name for path in tmp_path.iterdir()) == ['1.out_partial', '2.out_partial']
    shown = capsys.readouterr().out
    assert 'What is done of each episode is kept' in shown and shown.count(': stopped') == 2


@pytest.mark.skipif(os.name == 'nt', reason='Windows has other signals')
def test_workers_end_with_a_killed_parent(tmp_path):
    code = (
        'import sys; from pathlib import Path; from types import SimpleNamespace as N\n'
        'from konohana.video import workers\n'
        'jobs = [N(name=k, target=Path(sys.argv[2], k)) for k in "ab"]\n'
        'def run_one(job, *rest):\n'
        '    return workers.run_episode([sys.executable, sys.argv[1], "slow", str(job.target)], job.name, 1, *rest)\n'
        'none = lambda *_: None\n'
        'workers.annotate_at_once(jobs, 2, run_one, N(begun=none, progress=none, line=lambda *_: print(flush=True)))'
    )
    command = [sys.executable, '-c', code, str(FAKE), str(tmp_path)]
    parent = subprocess.Popen(command, cwd=PROJECT, stdout=subprocess.PIPE)
    parent.stdout.readline(), parent.stdout.readline()
    time.sleep(0.2)
    parent.kill()
    parent.communicate()
    deadline = time.monotonic() + 10
    while len(list(tmp_path.glob('*_partial'))) < 2 and time.monotonic() < deadline:
        time.sleep(0.05)
    assert len(list(tmp_path.glob('*_partial'))) == 2


def test_the_bar_shows_who_runs(tmp_path):
    shown = []

    class Bar:
        def update(self, done, running):
            shown.append((done, running))

    view, jobs = workers.View(5, Bar()), jobs_in(tmp_path, *['x' * 300, 'b', 'c', 'd'])
    view.every = 0
    for job in jobs:
        view.begun(job, None)
    for done in (0, 50, 0, 50):  # one bar for looking, one for drawing
        view.progress(jobs[0], (done, 100))
    assert shown[1][0] == 250 and shown[-1][0] == 750
    assert shown[-1][1].startswith('0 of 5 done, ') and shown[-1][1].endswith(' and 1 more') and len(shown[-1][1]) < 80
    view.ended(jobs[0], '')
    assert shown[-1] == (1000, '1 of 5 done, b 2.mkv 0%, c 3.mkv 0%, d 4.mkv 0%')
    view.ended(jobs[1], workers.STOPPED)  # not done
    assert view.done == 1


@pytest.fixture(scope='module')
def show(tmp_path_factory):
    folder = tmp_path_factory.mktemp('show')
    for number in (1, 2):
        write_video(folder / f'花 {number}.mkv', 0.5, 12, (90, 160), seed=number)
    return folder


def test_two_workers_write_what_one_does(show, run_script, weights_file, tmp_path, monkeypatch):
    monkeypatch.setenv('OMP_NUM_THREADS', '1')
    command = (
        '_test_with_video.py',
        f'weights={weights_file}',
        f'video_in={show}',
        "label_names={'柚': \"'Y' \\\"u\"}",
    )
    assert run_script(*command, f'video_out={tmp_path / "one"}').returncode == 0
    done = run_script(*command, f'video_out={tmp_path / "two"}', 'workers=2')
    assert done.returncode == 0 and done.stdout.count(': done in ') == 2, done.stdout + done.stderr
    for path in sorted((tmp_path / 'one').iterdir()):
        other = tmp_path / 'two' / path.name
        if path.suffix == '.mkv':
            for number, (a, b) in enumerate(zip(decoded(path), decoded(other), strict=True)):
                assert a.pts == b.pts, (path.name, number)
                for x, y in zip(planes(a), planes(b), strict=True):
                    rows, columns = (x != y).nonzero()
                    assert not rows.size, (path.name, number, rows.size, rows.min(), columns.min(), abs(x - y).max())
        elif path.name != files.LIST_NAME:
            assert path.read_bytes() == other.read_bytes(), path.name
    # Done by workers, known to the one that works alone, and the other way round.
    assert run_script(*command, f'video_out={tmp_path / "two"}').stdout.count('skipped') == 2
    done = run_script(*command, f'video_out={tmp_path / "one"}', 'workers=2', 'show=True')
    assert done.returncode == 0 and done.stdout.count('skipped') == 2
    done = run_script(*command, f'video_out={tmp_path / "three"}', 'workers=2', 'show=True')
    assert done.returncode == 2 and 'workers=1' in done.stderr and not (tmp_path / 'three').exists()


@pytest.mark.parametrize('several', [list, tuple, str])
def test_a_list_in_the_script_is_annotated_by_workers_too(show, weights_file, tmp_path, monkeypatch, several):
    """Each gets one video in a variable that holds several; and a file is taken where the variable holds a camera."""
    commands, seen = [], []
    monkeypatch.setattr(workers, 'run_episode', lambda command, *_: commands.append(command) or '')
    paths = sorted(show.glob('*.mkv'))
    script = load_script('_test_with_video.py')
    script.video_in = several(list(map(str, paths)))
    script.main([f'weights={weights_file}', f'video_out={tmp_path / "out"}', 'workers=2', 'progress=False'])
    script.open_model = lambda *_: None
    script.annotate = lambda settings, model, weights, source, target: seen.append((source, target.name))
    for command in commands:
        script.main(command[2:])
    script.video_in = 0
    script.main(command[2:])
    names = [f'{path.stem}_annotated.mkv' for path in paths]
    assert sorted(seen[:2]) == list(zip(paths, names, strict=True)) and seen[2] == seen[1]


def test_a_detector_that_workers_do_not_use_is_let_go(show, weights_file, tmp_path, monkeypatch, capsys):
    kept = []
    script = load_script('_test_with_video.py')

    def opened(*_):
        model = type('Model', (), {'class_names': ['柚'], 'wants_masks': False})()
        kept.append(weakref.ref(model))
        return model

    monkeypatch.setattr(workers, 'run_episode', lambda *_: '' if kept[0]() is None else 'it still fills memory')
    script.open_model = opened
    script.main([f'weights={weights_file}', f'video_in={show}', f'video_out={tmp_path}', 'workers=2', 'find=柚'])
    assert len(kept) == 1
    assert capsys.readouterr().out.count('is not searched; overwrite=True makes both again') == 2


def test_changed_options_are_done_again(show, run_script, weights_file, tmp_path, monkeypatch):
    def at_once(model, weights, source, target, **options):
        files.write_bytes(target, b'a video', remember=True)
        return target, None

    monkeypatch.setattr('konohana.episodes.episode.annotate_episode', at_once)
    monkeypatch.setattr('konohana.inference.load', lambda *_, **__: types.SimpleNamespace(backend='none'))
    folder, out = tmp_path / 'show', tmp_path / 'out'
    folder.mkdir()
    path = Path(shutil.copy2(show / '花 1.mkv', folder / 'a.mkv'))

    def run(*more, weights=weights_file):
        done = run_script('_test_with_video.py', f'weights={weights}', f'video_in={folder}', f'video_out={out}', *more)
        assert done.returncode == 0, done.stderr
        return next(line for line in done.stdout.splitlines() if line.startswith('1/1 a.mkv'))

    assert run() == '1/1 a.mkv'
    assert 'already done, skipped' in run('batch_size=2', 'backend=torch', 'find=柚')
    assert run('crf=30') == '1/1 a.mkv: done again (crf=30 instead of 18)'
    assert 'already done' in run('crf=30')
    assert (
        run('labels_as=subtitles')
        == "1/1 a.mkv: done again (labels_as='subtitles' instead of 'picture', crf=18 instead of 30)"
    )
    # One by itself, with other options, is noticed too.
    single = run_script(
        '_test_with_video.py', f'weights={weights_file}', f'video_in={path}', f'video_out={out / "a_annotated.mkv"}'
    )
    assert single.returncode == 0 and "labels_as='subtitles' instead of 'picture'" in run('labels_as=subtitles')
    make_weights(tmp_path / 'other.pt', epoch=4)
    assert run('labels_as=subtitles', weights=tmp_path / 'other.pt') == '1/1 a.mkv: done again (other weights)'
    shutil.copy2(weights_file, tmp_path / 'same.pt')
    assert '(other weights)' in run('labels_as=subtitles', weights=tmp_path / 'same.pt')
    assert 'already done' in run('labels_as=subtitles')  # the name of the weights does not matter
    os.utime(shutil.copy(show / '花 2.mkv', path), (0, 0))
    assert run('labels_as=subtitles') == '1/1 a.mkv: done again (another video of this name)'
    os.utime(path)
    os.utime(out / 'a_annotated.mkv', (time.time() - 1, time.time() - 1))
    assert run('labels_as=subtitles') == '1/1 a.mkv: done again (the video is newer than its result)'


def test_what_was_killed_before_its_index_is_not_done(tmp_path):
    source, target = tmp_path / 'a.mkv', tmp_path / 'a_annotated.mkv'
    source.write_bytes(b'a')
    files.write_bytes(target, b'video', remember=True)
    assert season.why_again(source, target, {'crf': 18}) == 'not done'
    files.written(target, season.of_video({'crf': 18, 'gone': 1}, source))
    assert season.why_again(source, target, {'crf': 18, 'new in this version': 3}) == ''
    assert season.why_again(source, target, {'crf': 18, 'gone': 2}) == 'gone=2 instead of 1'
    many = {name: 'x' * 100 for name in ('crf', 'gone', 'b', 'c', 'd')}
    before = dict.fromkeys(many, 0)
    assert season.changes(before, many).endswith(', 2 more') and len(season.changes(before, many)) < 300
    target.write_bytes(b'of somebody else')
    assert season.why_again(source, target, {'crf': 18}) == 'not done' and files.made_with(target) is None
    assert (
        season.why_again(source, tmp_path / 'none.mkv', {}) == season.why_again('http://a/b', target, {}) == 'not done'
    )
