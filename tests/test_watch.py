"""Watching an episode with a detector that finds nobody: its chapters, and ends that come at a bad moment."""

import shutil
from types import SimpleNamespace

import numpy as np
import pytest

from konohana.episodes.clips import cut_clips
from konohana.episodes.episode import annotate_episode, read_or_watch
from konohana.episodes.find import Episode, Scene
from konohana.episodes.index import build_index, load_index, save_index
from konohana.episodes.watch import _Watch, watch
from konohana.errors import UserError
from konohana.video.detecting import NOTHING
from tests.test_video import X264, make, source

NOBODY = SimpleNamespace(
    class_names=['Yuzu'], cast=None, wants_masks=False, detect=lambda frames, **_: [NOTHING] * len(frames)
)

ENCODING = {'codec': 'h264', 'crf': 40, 'preset': 'ultrafast', 'pix_fmt': '', 'hwaccel': ''}
OPTIONS = {
    **{'start': 0, 'seconds': 0, 'label_names': {}, 'threshold': 0.5, 'overwrite': False, 'font': None},
    **{'progress': False, 'batch_size': 4, **ENCODING},
}


@pytest.fixture(scope='module')
def path(tmp_path_factory):
    """Three seconds in three chapters."""
    folder = tmp_path_factory.mktemp('watched')
    parts = (f'[CHAPTER]\nTIMEBASE=1/1\nSTART={k}\nEND={k + 1}\ntitle={k}\n' for k in range(3))
    (folder / 'c.txt').write_text(';FFMETADATA1\n' + ''.join(parts))
    return make(folder / 'a.mkv', *source(rate=10, seconds=3), '-i', folder / 'c.txt', '-map_chapters', 1, *X264)


def test_a_part_has_its_own_chapters(path):
    index, _ = watch(NOBODY, path, start=1.5, seconds=1, progress=False)
    assert index.chapters == [(0.0, '1'), (0.5, '2')]
    index, _ = watch(NOBODY, path, seconds=0.5, progress=False)
    assert index.chapters == [(0.0, '0')]


def test_times_never_go_back_where_recordings_overlap(tmp_path):
    parts = [make(tmp_path / f'{k}.ts', *source(rate=10), *X264, '-output_ts_offset', 0.6 * k) for k in range(2)]
    (tmp_path / 'in.ts').write_bytes(b''.join(part.read_bytes() for part in parts))
    index, _ = watch(NOBODY, tmp_path / 'in.ts', progress=False)
    assert len(index.times) == 20 and (np.diff(index.times) >= 0).all()
    assert index.frame_seconds.sum() == pytest.approx(index.times[-1] + 0.1)


def test_what_was_seen_is_kept_wherever_ctrl_c_comes(path, monkeypatch):
    """Between a frame's detections and its time, too."""
    look, kept = _Watch._look, []

    def looked(watching, batch):
        seen = look(watching, batch)
        if len(watching.times) >= 8:
            watching.found.append(watching.found[-1])
            raise KeyboardInterrupt
        return seen

    monkeypatch.setattr(_Watch, '_look', looked)
    monkeypatch.setattr('konohana.episodes.watch.build_index', lambda *a: kept.append(len(a[-1])) or build_index(*a))
    with pytest.raises(KeyboardInterrupt):
        watch(NOBODY, path, progress=False, batch_size=4, detect_every=1, keep=kept.append)
    assert kept[0] == len(kept[1].times) == 8


@pytest.mark.parametrize('where', ['watch.build_index', 'episode.save_index'])
def test_ctrl_c_when_all_is_seen_loses_nothing(path, tmp_path, monkeypatch, where):
    calls, function = [], {'watch.build_index': build_index, 'episode.save_index': save_index}[where]

    def interrupted(*arguments):
        calls.append(1)
        if len(calls) == 1:
            raise KeyboardInterrupt
        return function(*arguments)

    monkeypatch.setattr(f'konohana.episodes.{where}', interrupted)
    kept = tmp_path / 'a.detections.jsonl.gz'
    with pytest.raises(KeyboardInterrupt):
        read_or_watch(NOBODY, path, path, kept, progress=False)
    assert len(load_index(kept).times) == 30
    _, line = read_or_watch(NOBODY, path, path, kept, progress=False)
    assert 'taken from' in line or '0 of the 0 frames that were left' in line


def test_what_is_said_of_a_file_controls_no_terminal(path, tmp_path, capsys):
    pytest.importorskip('pysubs2')
    source = shutil.copy(path, tmp_path / 'a\x1b[31m\n.mkv')
    more = {'seconds': 0.5, 'preview': True, 'xray': True}
    for labels_as in ('picture', 'subtitles'):
        target = tmp_path / labels_as / f'{source.stem}.mkv'
        annotate_episode(NOBODY, path, source, target, labels_as=labels_as, **{**OPTIONS, **more})
    said = capsys.readouterr().out
    assert '\x1b' not in said and all(' ' in line for line in said.splitlines()) and said.count('Who is on') == 6


def test_a_video_that_matroska_cannot_copy_is_one_line_before_the_work(tmp_path):
    pytest.importorskip('pysubs2')
    wmv = make(tmp_path / 'a.wmv', *source(rate=10, seconds=3), '-c:v', 'wmv2')
    with pytest.raises(UserError, match=r"a\.wmv: cannot be copied into \.mkv, as its video is wmv2.*'picture'"):
        annotate_episode(NOBODY, wmv, wmv, tmp_path / 'out' / 'a.mkv', labels_as='subtitles', **OPTIONS)
    assert not (tmp_path / 'out').exists()
    index, _ = watch(NOBODY, wmv, progress=False)
    scenes = [Scene(Episode(index, 'a', wmv), begin, begin + 0.5) for begin in (0.0, 2.0)]
    with pytest.raises(UserError) as told:
        cut_clips(scenes, tmp_path / 'clips', progress=False)
    assert str(told.value).count('its video is wmv2: take cut=exact') == 1
    assert len(cut_clips(scenes, tmp_path / 'clips', cut='exact', progress=False, **ENCODING)) == 2
