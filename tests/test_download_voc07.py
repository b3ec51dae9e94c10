"""The download of VOC 2007 against a local server, with small archives of the same shape, and every way to go wrong."""

import hashlib
import importlib.util
import io
import socket
import sys
import tarfile
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from conftest import PROJECT
from PIL import Image

from konohana.data.reading import class_names_of, read_frames
from konohana.errors import UserError

XML = """<annotation><folder>VOC2007</folder><filename>{name}.jpg</filename>
<size><width>50</width><height>40</height><depth>3</depth></size><segmented>0</segmented>
<object><name>person</name><pose>Left</pose><truncated>1</truncated><difficult>0</difficult>
<bndbox><xmin>1</xmin><ymin>2</ymin><xmax>30</xmax><ymax>40</ymax></bndbox>
<part><name>head</name><bndbox><xmin>5</xmin><ymin>2</ymin><xmax>9</xmax><ymax>9</ymax></bndbox></part></object>
<object><name>dog</name><pose>Left</pose><truncated>0</truncated><difficult>1</difficult>
<bndbox><xmin>20</xmin><ymin>20</ymin><xmax>50</xmax><ymax>30</ymax></bndbox></object></annotation>"""


def add(tar, name, content=b'', **changes):
    member = tarfile.TarInfo(name)
    member.size = len(content)
    for key, value in changes.items():
        setattr(member, key, value)
    tar.addfile(member, io.BytesIO(content))


def archive(split, n, *more):
    """Bytes of a tar of the shape of VOC's; `more` are (name, content, changes of TarInfo) added at the end."""
    picture = io.BytesIO()
    # Noise, so that the archive is large enough to break off in the middle.
    Image.effect_noise((50, 40), 80).convert('RGB').save(picture, 'JPEG', quality=95)
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode='w') as tar:
        names = [f'{split}_{i:06d}' for i in range(n)]
        add(tar, 'VOCdevkit/', type=tarfile.DIRTYPE)
        for name in names:
            add(tar, f'VOCdevkit/VOC2007/Annotations/{name}.xml', XML.format(name=name).encode(), mode=0o4777)
            add(tar, f'VOCdevkit/VOC2007/JPEGImages/{name}.jpg', picture.getvalue())
        add(tar, f'VOCdevkit/VOC2007/ImageSets/Main/{split}.txt', '\n'.join(names).encode())
        for name, content, changes in more:
            add(tar, name, content, **changes)
    return out.getvalue()


class Server(ThreadingHTTPServer):
    """Serves `files` (path -> bytes); `requests` are (path, Range header) as they came.

    `break_after`: bytes after which each connection dies; `ranges`: whether parts are sent.
    """

    daemon_threads = True

    def __init__(self):
        super().__init__(('127.0.0.1', 0), Handler)
        self.files, self.requests, self.break_after, self.ranges = {}, [], [], True
        self.status = 200
        self.url = f'http://127.0.0.1:{self.server_address[1]}'


class Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        server, asked = self.server, self.headers.get('Range')
        server.requests.append((self.path, asked))
        content = server.files.get(self.path)
        if content is None or server.status != 200:
            self.send_error(404 if content is None else server.status)
            return
        start = int(asked[len('bytes=') : -1]) if asked and server.ranges else 0
        if asked and start >= len(content):
            self.send_response(416)
            self.send_header('Content-Range', f'bytes */{len(content)}')
            self.end_headers()
            return
        self.send_response(206 if start else 200)
        if start:
            self.send_header('Content-Range', f'bytes {start}-{len(content) - 1}/{len(content)}')
        self.send_header('Content-Length', str(len(content) - start))
        self.end_headers()
        stop = start + server.break_after.pop(0) if server.break_after else len(content)
        self.wfile.write(content[start:stop])

    def log_message(self, *_):
        pass


TRAINVAL, TEST = archive('trainval', 6), archive('test', 3)


@pytest.fixture
def server():
    server = Server()
    server.files = {'/trainval.tar': TRAINVAL, '/test.tar': TEST}
    thread = threading.Thread(target=server.serve_forever, kwargs={'poll_interval': 0.02})
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture
def tool(server, tmp_path, monkeypatch):
    """The tool's module, set to the local server and to a folder with a space and Chinese characters."""
    monkeypatch.setattr(sys, 'path', list(sys.path))
    spec = importlib.util.spec_from_file_location('download_voc07', PROJECT / 'tools' / 'download_voc07.py')
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    monkeypatch.setattr(sys, 'argv', ['download_voc07.py'])
    # No proxy of this machine between the tool and the local server.
    monkeypatch.setattr('urllib.request._opener', None)  # another test's may remember a proxy
    for name in ('http_proxy', 'HTTP_PROXY', 'all_proxy', 'ALL_PROXY'):
        monkeypatch.delenv(name, raising=False)
    module.folder, module.progress, module.retries, module.timeout = str(tmp_path / 'voc 花'), False, 0, 5.0
    module.trainval_url, module.test_url = f'{server.url}/trainval.tar', f'{server.url}/test.tar'
    module.trainval_md5, module.test_md5 = (hashlib.md5(content).hexdigest() for content in (TRAINVAL, TEST))
    monkeypatch.setattr(module.time, 'sleep', lambda _: None)
    return module


def check_data(root):
    """All of both archives is there, and it can be learned from as the printed command would."""
    (train, test), problems = read_frames(root, ['trainval', 'test'], None, progress=False)
    assert problems == [] and (len(train), len(test)) == (6, 3)
    assert class_names_of(root, train) == ['dog', 'person']
    assert train[0].names == ['person', 'dog'] and train[0].difficult.tolist() == [False, True]
    assert train[0].boxes.tolist() == [[0, 1, 30, 40], [19, 19, 50, 30]]
    assert not list(root.parent.parent.rglob('*.part'))


def refused(tool, *words):
    with pytest.raises(UserError) as error:
        tool.main()
    assert '\n' not in str(error.value)
    for word in words:
        assert word in str(error.value)


def test_fetches_unpacks_and_names_the_command(tool, server, tmp_path, capsys):
    tool.main()
    root = tmp_path / 'voc 花' / 'VOCdevkit' / 'VOC2007'
    check_data(root)
    out = capsys.readouterr().out
    assert 'trainval: 6 pictures' in out and 'test: 3 pictures' in out
    command = out.splitlines()[-1]
    assert '_train.py' in command and str(root) in command
    assert command.endswith('train_split=trainval val_split=test')
    assert not list((tmp_path / 'voc 花').glob('*.tar'))
    # The archive's set-uid bit is not taken over.
    assert not (root / 'Annotations' / 'trainval_000000.xml').stat().st_mode & 0o6000
    requests = list(server.requests)
    assert requests == [('/trainval.tar', None), ('/test.tar', None)]

    # Once more: nothing is fetched, what somebody has changed stays; what is missing comes back.
    changed, missing = root / 'Annotations' / 'trainval_000000.xml', root / 'JPEGImages' / 'trainval_000003.jpg'
    changed.write_text('my own', encoding='utf-8')
    tool.main()
    assert server.requests == requests
    missing.unlink()
    tool.main()
    assert len(server.requests) == 3 and missing.is_file()
    assert changed.read_text(encoding='utf-8') == 'my own'


def test_archives_that_are_kept_are_not_fetched_again(tool, server, tmp_path):
    tool.keep_archives = True
    tool.main()
    (tmp_path / 'voc 花' / 'VOCdevkit' / 'VOC2007' / 'ImageSets' / 'Main' / 'test.txt').unlink()
    tool.main()
    assert len(server.requests) == 2
    check_data(tmp_path / 'voc 花' / 'VOCdevkit' / 'VOC2007')


def test_server_that_dies_half_way_is_taken_up_again(tool, server, tmp_path, capsys):
    server.break_after = [5000, 700]
    tool.main()
    asked = [wanted for path, wanted in server.requests if path == '/trainval.tar']
    assert asked == [None, 'bytes=5000-', 'bytes=5700-']
    assert 'connection broke' in capsys.readouterr().out
    check_data(tmp_path / 'voc 花' / 'VOCdevkit' / 'VOC2007')


def test_a_later_run_goes_on_where_one_stopped(tool, server, tmp_path):
    server.break_after = [5000, 0]
    refused(tool, 'trainval.tar', 'connection broke', 'Run this again')
    part = tmp_path / 'voc 花' / 'VOCtrainval_06-Nov-2007.tar.part'
    assert part.read_bytes() == TRAINVAL[:5000]
    tool.main()
    assert server.requests[2] == ('/trainval.tar', 'bytes=5000-')
    check_data(tmp_path / 'voc 花' / 'VOCdevkit' / 'VOC2007')


def test_server_without_ranges_starts_over(tool, server, tmp_path):
    server.ranges, server.break_after = False, [5000]
    tool.main()
    assert server.requests[:2] == [('/trainval.tar', None), ('/trainval.tar', 'bytes=5000-')]
    check_data(tmp_path / 'voc 花' / 'VOCdevkit' / 'VOC2007')


@pytest.mark.parametrize('beyond', [b'', b'too much'])
def test_part_that_is_whole_or_longer(tool, server, tmp_path, beyond):
    (tmp_path / 'voc 花').mkdir()
    (tmp_path / 'voc 花' / 'VOCtrainval_06-Nov-2007.tar.part').write_bytes(TRAINVAL + beyond)
    tool.retries = 1
    tool.main()
    check_data(tmp_path / 'voc 花' / 'VOCdevkit' / 'VOC2007')


def test_wrong_md5_is_thrown_away(tool, server, tmp_path):
    server.files['/trainval.tar'] = b'<html>Log in to this network</html>'
    refused(tool, 'trainval.tar', 'MD5', tool.trainval_md5, 'deleted')
    assert list((tmp_path / 'voc 花').iterdir()) == []
    server.files['/trainval.tar'] = TRAINVAL
    tool.main()
    check_data(tmp_path / 'voc 花' / 'VOCdevkit' / 'VOC2007')


def test_archive_in_the_folder_with_another_md5(tool, server, tmp_path):
    (tmp_path / 'voc 花').mkdir()
    mine = tmp_path / 'voc 花' / 'VOCtrainval_06-Nov-2007.tar'
    mine.write_bytes(TRAINVAL[:-600])
    refused(tool, str(mine), 'MD5', 'Delete it')
    assert mine.is_file() and server.requests == []


def test_an_archive_of_the_users_stays(tool, server, tmp_path):
    (tmp_path / 'voc 花').mkdir()
    mine = tmp_path / 'voc 花' / 'VOCtrainval_06-Nov-2007.tar'
    mine.write_bytes(TRAINVAL)
    tool.main()
    assert mine.read_bytes() == TRAINVAL and [path for path, _ in server.requests] == ['/test.tar']
    assert [path.name for path in (tmp_path / 'voc 花').glob('*.tar')] == [mine.name]
    check_data(tmp_path / 'voc 花' / 'VOCdevkit' / 'VOC2007')


def serve(tool, server, content):
    server.files['/trainval.tar'] = content
    tool.trainval_md5 = hashlib.md5(content).hexdigest()


ESCAPES = {
    'upwards': ('VOCdevkit/../../escaped', b'x', {}),
    'absolute': ('/tmp/escaped', b'x', {}),
    'backslashes': ('..\\escaped', b'x', {}),
    'drive': ('C:escaped', b'x', {}),
    'link out': ('VOCdevkit/link', b'', {'type': tarfile.SYMTYPE, 'linkname': '../..'}),
    'hard link': ('VOCdevkit/link', b'', {'type': tarfile.LNKTYPE, 'linkname': '/etc/passwd'}),
    'device': ('VOCdevkit/device', b'', {'type': tarfile.CHRTYPE}),
    'pipe': ('VOCdevkit/pipe', b'', {'type': tarfile.FIFOTYPE}),
}


@pytest.mark.parametrize('how', ESCAPES)
def test_nothing_leaves_the_folder(tool, server, tmp_path, how):
    serve(tool, server, archive('trainval', 1, ESCAPES[how]))
    refused(tool, 'VOCtrainval', 'nothing unpacked')
    assert [path.name for path in (tmp_path / 'voc 花').iterdir()] == ['VOCtrainval_06-Nov-2007.tar']
    assert sorted(path.name for path in tmp_path.iterdir()) == ['voc 花']


@pytest.mark.parametrize('content', [TRAINVAL[: len(TRAINVAL) // 2], b'no archive', b''])
def test_damaged_archive_of_the_right_md5(tool, server, tmp_path, content):
    serve(tool, server, content)
    refused(tool, 'VOCtrainval_06-Nov-2007.tar')


def test_archive_of_something_else(tool, server):
    serve(tool, server, TEST)
    refused(tool, 'trainval')


def test_no_such_file_and_a_server_in_trouble(tool, server):
    server.files.clear()
    refused(tool, f'{server.url}/trainval.tar', '404')
    server.files, server.status = {'/trainval.tar': TRAINVAL}, 503
    refused(tool, 'trainval.tar', '503')


def test_no_connection(tool, server):
    with socket.socket() as closed:
        closed.bind(('127.0.0.1', 0))
        tool.trainval_url = f'http://127.0.0.1:{closed.getsockname()[1]}/trainval.tar'
        refused(tool, tool.trainval_url, 'no connection')
    tool.trainval_url = 'trainval.tar'
    refused(tool, 'not a URL')


def test_no_room(tool, server, tmp_path, monkeypatch):
    monkeypatch.setattr(tool.shutil, 'disk_usage', lambda _: type('Usage', (), {'free': 1000}))
    refused(tool, 'there is room for', 'MB')


def test_folder_that_cannot_be(tool, tmp_path):
    (tmp_path / 'file').write_text('x', encoding='utf-8')
    tool.folder = str(tmp_path / 'file')
    refused(tool, str(tmp_path / 'file'))


def test_as_a_user_runs_it(run_script, server, tmp_path):
    md5s = [f'{split}_md5={hashlib.md5(c).hexdigest()}' for split, c in (('trainval', TRAINVAL), ('test', TEST))]
    urls = [f'{split}_url={server.url}/{split}.tar' for split in ('trainval', 'test')]
    result = run_script('tools/download_voc07.py', f'folder={tmp_path / "voc 花"}', *urls, *md5s)
    assert result.returncode == 0, result.stderr
    check_data(tmp_path / 'voc 花' / 'VOCdevkit' / 'VOC2007')
    # Paths are quoted as the shell needs it.
    assert f'{tmp_path / "voc 花"}' in result.stdout


def test_the_archives_are_those_of_the_challenge():
    source = (PROJECT / 'tools' / 'download_voc07.py').read_text(encoding='utf-8')
    for text in ('c52e279531787c972589f7e41ab4ae64', 'b6e924de25625d8de591ea690078ad9f', 'VOCtrainval_06-Nov-2007.tar'):
        assert text in source
