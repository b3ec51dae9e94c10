"""benchmarks/long_video.py: memory over a long video, and what becomes of a gap in its times."""

import pytest

from benchmarks import long_video
from konohana.errors import UserError


def test_a_gap_of_an_hour_is_carried_and_memory_is_shown(monkeypatch, capsys):
    monkeypatch.setattr(long_video, 'CLIP', 1)
    settings = ['hours=0.001', 'gap=3600', 'hw=(64,96)', 'progress=False']
    long_video.main(settings)
    shown = capsys.readouterr().out
    assert '96 frames, the last ends after 3604.00 s: right' in shown
    rows = [line.split() for line in shown.splitlines() if line.startswith(('watch', 'draw', 'index'))]
    assert [len(row) for row in rows] == [13, 13, 13] and all(float(value) > 0 for row in rows for value in row[1:])
    # A result that lost frames is told, not praised.
    monkeypatch.setattr(long_video, 'frame_times', lambda path: [0.0, 1.0])
    with pytest.raises(UserError, match='it should have 96 frames and end after 3604'):
        long_video.main(settings)


def test_what_is_needed_is_one_line(monkeypatch):
    monkeypatch.setitem(__import__('sys').modules, 'psutil', None)
    with pytest.raises(UserError, match='pip install psutil'):
        long_video.main(['hours=0.1'])
