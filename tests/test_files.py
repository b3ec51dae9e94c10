"""Files that are written whole or not at all, and outputs that never replace what this program did not write."""

import multiprocessing
import os
import subprocess
import sys

import pytest
from conftest import PROJECT

from konohana import files
from konohana.errors import UserError

NAMES = ['a.txt', '木花 咲耶.txt', 'new\nline.txt', 'quote\'".txt', 'x' * 251 + '.txt', '花' * 85]


def names(folder):
    return sorted(path.name for path in folder.iterdir() if path.name != files.LIST_NAME)


@pytest.mark.skipif(os.name == 'nt', reason='Windows has no such names')
@pytest.mark.parametrize('name', NAMES)
def test_ours_may_be_written_again(tmp_path, name):
    path = tmp_path / 'new' / 'folder' / name
    for text in ('one', 'two 花'):
        files.claim(path)
        files.write_text(path, text, remember=True)
        assert path.read_text(encoding='utf-8') == text
        assert files.written_here(path)
    assert names(path.parent) == [name]


@pytest.mark.parametrize('error', [OSError(28, 'No space left on device'), RuntimeError('bug'), KeyboardInterrupt()])
def test_a_failure_leaves_the_old_file_and_nothing_else(tmp_path, error):
    path = tmp_path / 'a.txt'
    path.write_text('old')
    kind = UserError if isinstance(error, OSError) else type(error)
    with pytest.raises(kind) as raised:
        with files.replacing(path) as temporary:
            temporary.write_text('half')
            raise error
    assert path.read_text() == 'old' and names(tmp_path) == ['a.txt']
    if kind is UserError:
        assert str(raised.value).startswith(f'{path}: cannot be written (No space left on device).')


def test_a_failure_after_the_first_writing_keeps_ours_ours(tmp_path):
    path = tmp_path / 'a.txt'
    files.write_text(path, 'one', remember=True)
    with pytest.raises(ZeroDivisionError), files.replacing(path, remember=True):
        _ = 1 / 0
    files.claim(path)


@pytest.mark.parametrize('changed', ['never ours', 'longer', 'same size', 'replaced', 'link', 'broken link'])
def test_a_users_file_is_refused(tmp_path, changed):
    path = tmp_path / 'a.txt'
    if changed != 'never ours':
        files.write_text(path, 'ours', remember=True)
    if changed in ('never ours', 'longer'):
        path.write_text("user's")
    elif changed == 'same size':
        path.write_text('user')
        os.utime(path, ns=(0, path.stat().st_mtime_ns + 5_000_000_000))
    else:
        path.unlink()
        other = tmp_path / 'b.txt'
        if changed != 'broken link':
            other.write_text("user's")
        other.rename(path) if changed == 'replaced' else path.symlink_to(other)
    with pytest.raises(UserError, match='this program did not write it') as error:
        files.claim(path, variable='video_out')
    assert str(path) in str(error.value) and 'video_out' in str(error.value) and 'overwrite=True' in str(error.value)
    files.claim(path, overwrite=True)


def test_what_is_written_without_remember_is_the_users(tmp_path):
    files.write_text(tmp_path / 'a.txt', 'x')
    with pytest.raises(UserError, match='did not write it'):
        files.claim(tmp_path / 'a.txt')


@pytest.mark.parametrize('overwrite', [False, True])
@pytest.mark.parametrize('given', ['a.txt', '.', '..', 'link to a.txt', 'hard link to a.txt'])
def test_an_input_is_never_replaced(tmp_path, given, overwrite):
    path = tmp_path / 'folder' / 'a.txt'
    files.write_text(path, 'ours', remember=True)
    (path.parent / 'link to a.txt').symlink_to(path)
    os.link(path, path.parent / 'hard link to a.txt')
    inputs = [tmp_path / 'missing', path.parent / given]
    with pytest.raises(UserError, match='is an input') as error:
        files.claim(path, inputs, overwrite, 'results_json')
    assert 'results_json' in str(error.value)
    files.claim(path.parent / 'new.txt', inputs, overwrite)
    files.claim(path, [tmp_path / 'folder 2'], overwrite)


@pytest.mark.parametrize(
    'damage', [b'', b'\xff\xfe\x00', b'[1, 2', b'{}\n[]\n[[], 1, 2]\n["a.txt", 1e999, null]\n[[[[[[']
)
def test_a_damaged_list_is_a_list_without_the_damaged_lines(tmp_path, damage):
    files.write_text(tmp_path / 'a.txt', 'x', remember=True)
    (tmp_path / files.LIST_NAME).write_bytes(damage)
    with pytest.raises(UserError, match='did not write it'):
        files.claim(tmp_path / 'a.txt')
    files.write_text(tmp_path / 'b.txt', 'x', remember=True)
    files.claim(tmp_path / 'b.txt')


def test_without_a_list_files_are_written_all_the_same(tmp_path):
    (tmp_path / files.LIST_NAME).mkdir()
    files.write_text(tmp_path / 'a.txt', 'x', remember=True)
    assert names(tmp_path) == ['a.txt'] and not files.written_here(tmp_path / 'a.txt')


def test_the_list_does_not_grow_for_ever(tmp_path, monkeypatch):
    monkeypatch.setattr(files, 'SPARE_LINES', 10)
    for i in range(30):
        for name in ('a.txt', '花\n.txt'):
            files.claim(tmp_path / name)
            files.write_text(tmp_path / name, str(i), remember=True)
    assert (tmp_path / files.LIST_NAME).stat().st_size < 1200
    files.claim(tmp_path / 'a.txt')


@pytest.mark.parametrize('what', ['folder', 'pipe', 'in a file', 'null byte', 'too long'])
def test_what_cannot_be_written_is_one_line(tmp_path, what):
    path = tmp_path / {'null byte': 'a\0b', 'too long': '花' * 86, 'in a file': 'file/a.txt'}.get(what, 'a.txt')
    (tmp_path / 'file').write_text('x')
    if what == 'folder':
        path.mkdir()
    if what == 'pipe':
        os.mkfifo(path)
    before = names(tmp_path)
    for attempt in (lambda: files.claim(path, overwrite=True), lambda: files.write_text(path, 'x')):
        with pytest.raises(UserError) as error:
            attempt()
        assert str(error.value).startswith(f'{path}: ')
    assert names(tmp_path) == before


@pytest.mark.skipif(os.name == 'nt' or os.geteuid() == 0, reason='needs a folder in which nothing may be written')
def test_a_read_only_folder_is_one_line(tmp_path):
    (tmp_path / 'closed').mkdir(mode=0o555)
    for path in (tmp_path / 'closed' / 'a.txt', tmp_path / 'closed' / 'b' / 'a.txt'):
        for attempt in (lambda path=path: files.claim(path), lambda path=path: files.write_text(path, 'x')):
            with pytest.raises(UserError, match='cannot be written'):
                attempt()


def write_many(folder, text):
    for i in range(40):
        files.write_text(folder / f'{text} {i}', text, remember=True)
        files.write_text(folder / 'shared', text * 10_000, remember=True)


def test_two_processes_write_at_once(tmp_path):
    context = multiprocessing.get_context('fork' if os.name != 'nt' else 'spawn')
    processes = [context.Process(target=write_many, args=(tmp_path, text)) for text in 'ab']
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    assert (tmp_path / 'shared').read_text() in ('a' * 10_000, 'b' * 10_000)
    assert len(names(tmp_path)) == 81
    assert all(files.written_here(tmp_path / f'{text} {i}') for text in 'ab' for i in range(40))


def test_a_kill_in_the_middle_leaves_the_old_file(tmp_path):
    path = tmp_path / 'a.txt'
    path.write_text('old')
    code = (
        'import os, sys; from konohana import files\n'
        'with files.replacing(sys.argv[1]) as t: t.write_text("half"); os.kill(os.getpid(), 9)'
    )
    assert subprocess.run([sys.executable, '-c', code, str(path)], cwd=PROJECT).returncode
    assert path.read_text() == 'old'


def test_a_file_that_is_too_large_is_not_read(tmp_path, monkeypatch):
    (tmp_path / 'huge.pt').write_bytes(b'x' * 2_000_001)
    assert len(files.read_bytes(tmp_path / 'huge.pt', 2_000_001)) == 2_000_001
    monkeypatch.setattr(files.Path, 'read_bytes', None)  # to call it would be a TypeError
    with pytest.raises(UserError, match='larger than 2 MB, which no weights file is'):
        files.read_bytes(tmp_path / 'huge.pt', 2_000_000, 'weights file')
