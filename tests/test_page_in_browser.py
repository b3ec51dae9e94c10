"""The page of an episode in a real browser: Playwright, with a Chromium that is installed on the machine."""

import av
import numpy as np
import pytest

from konohana.episodes import page, season
from konohana.video.recode import write_preview
from tests.test_episodes import HOSTILE, box_at, episode, sure_of


@pytest.fixture
def opened(browser, tmp_path):
    """(page in the browser, list of what its console said, list of requests that left the folder)."""
    frames = []
    for i in range(72):
        found = [(box_at(10), 0.9, sure_of('Yuzu'))] if i < 60 else []
        frames.append(found + ([(box_at(200), 0.8, sure_of('Satsuki'))] if 24 <= i < 48 else []))
    index = episode(frames, shots=(0, 30), chapters=[(0.0, 'Opening'), (2.0, '</script>')])
    with av.open(str(tmp_path / '花 a.mp4'), 'w', options={'movflags': 'faststart'}) as container:
        stream = container.add_stream('libx264', 24, width=320, height=180, pix_fmt='yuv420p')
        for i in range(72):
            frame = av.VideoFrame.from_ndarray(np.full((180, 320, 3), 3 * i, np.uint8), 'rgb24')
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    picture = page.portrait_of(np.zeros((180, 320, 3), np.uint8), (0, 0, 40, 40))
    page.write_page(tmp_path / 'a.html', index, tmp_path / '花 a.mp4', {'Yuzu': HOSTILE}, {'Yuzu': [(12, picture)]})
    tab, said, asked = browser.new_page(), [], []
    tab.set_default_timeout(5000)
    tab.on('console', lambda message: said.append(message.text) if message.type in ('error', 'warning') else None)
    tab.on('pageerror', lambda error: said.append(str(error)))
    tab.on('request', lambda request: asked.append(request.url))
    tab.goto((tmp_path / 'a.html').as_uri())
    until(tab, 'document.getElementById("player").readyState >= 1 || document.getElementById("player").hidden')
    yield tab, said, asked
    tab.close()


def until(tab, expression):
    """Wait until a JavaScript expression is true. Playwright's own wait needs eval, which the page's policy forbids."""
    for _ in range(200):
        if tab.evaluate(expression):
            return
        tab.wait_for_timeout(25)
    raise AssertionError(f'{expression} does not come true')


def open_page(browser, path):
    """(page in the browser, list of what its console said)."""
    tab, said = browser.new_page(), []
    tab.set_default_timeout(5000)
    tab.on('console', lambda message: said.append(message.text) if message.type in ('error', 'warning') else None)
    tab.on('pageerror', lambda error: said.append(str(error)))
    tab.goto(path.as_uri())
    return tab, said


def test_the_preview_plays_where_the_video_does_not(browser, tmp_path):
    frames = [[(box_at(10), 0.9, sure_of('Yuzu'))] if i >= 24 else [] for i in range(60)]
    with av.open(str(tmp_path / 'a.mkv'), 'w') as container:
        stream = container.add_stream('libx265', 24, width=320, height=180, pix_fmt='yuv420p10le')
        stream.options = {'preset': 'ultrafast', 'x265-params': 'log-level=none'}
        for i in range(72):
            frame = av.VideoFrame.from_ndarray(np.full((180, 320, 3), 3 * i, np.uint8), 'rgb24')
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    preview = tmp_path / 'a "b" #1.preview.mp4'
    write_preview(tmp_path / 'a.mkv', preview, 0.5)
    page.write_page(tmp_path / 'a.html', episode(frames), tmp_path / 'a.mkv', offset=0.5, preview=preview)
    tab, said = open_page(browser, tmp_path / 'a.html')
    if not tab.evaluate('player.canPlayType(\'video/mp4; codecs="avc1.64001e"\')'):
        pytest.skip('this Chromium has no H.264')
    until(tab, 'player.readyState >= 2')
    tab.get_by_role('button', name='Yuzu, 0:01 to 0:02', exact=True).click()
    until(tab, '!player.seeking')
    # The preview begins where the index does, and mpv plays the video itself.
    assert tab.evaluate('player.currentTime') == pytest.approx(1, abs=0.01)
    assert tab.inner_text('#mpv') == "mpv --start=1.50 'a.mkv'"
    assert tab.evaluate('player.videoHeight') == 180 and said == []
    tab.close()


def test_an_episode_with_nobody_says_so(browser, tmp_path):
    page.write_page(tmp_path / 'a.html', episode([[]] * 5), tmp_path / 'a.ts')
    tab, said = open_page(browser, tmp_path / 'a.html')
    assert 'Nobody appears in this episode.' in tab.inner_text('main')
    assert tab.locator('h2:visible').count() == 0 and tab.is_visible('#unplayable') and said == []
    season.write_season(tmp_path / 'b.html', [episode([[]] * 5)], 'Season')
    tab.goto((tmp_path / 'b.html').as_uri())
    assert 'Nobody appears in these episodes.' in tab.inner_text('main') and tab.locator('h2:visible').count() == 0
    alone = episode([[(box_at(10), 0.9, sure_of('Yuzu'))]] * 24)
    page.write_page(tmp_path / 'a.html', alone, tmp_path / 'a.ts')
    tab.goto((tmp_path / 'a.html').as_uri())
    assert 'No two of them are on screen together.' in tab.inner_text('main') and said == []
    assert tab.locator('h2:visible').all_inner_texts() == ['Find scenes', 'Timeline', 'Screen time', 'Who meets whom']
    tab.close()


def test_a_click_seeks_and_nothing_leaves_the_folder(opened, tmp_path):
    tab, said, asked = opened
    assert tab.title() == 'a.mkv'
    for label, seconds in ((f'{HOSTILE}, 0:00 to 0:02', 0.0), ('Satsuki, 0:01 to 0:02', 1.0)):
        tab.get_by_role('button', name=label, exact=True).click()
        assert tab.evaluate('document.getElementById("player").currentTime') == pytest.approx(seconds, abs=0.01)
        assert f'mpv --start={seconds:.2f}' in tab.inner_text('#mpv')
    tab.get_by_role('button', name=f'{HOSTILE} at 0:00', exact=True).click()
    assert tab.evaluate('document.getElementById("player").currentTime') == pytest.approx(0.5, abs=0.01)
    tab.get_by_role('button', name='Chapter </script>, 0:02', exact=True).press('Enter')  # by keyboard
    assert tab.evaluate('document.getElementById("player").currentTime') == pytest.approx(2, abs=0.01)
    assert said == []
    assert [url for url in asked if not url.startswith((tmp_path.as_uri(), 'data:'))] == []


def test_names_are_text_and_searched(opened):
    tab, said, _ = opened
    assert HOSTILE in tab.inner_text('#bars') and tab.locator('#bars script').count() == 0
    tab.fill('#find', 'satsuki, <SCRIPT>')
    assert tab.inner_text('#found').startswith('1 scene, 0:01 together:')
    tab.locator('#found button').click()
    assert tab.evaluate('document.getElementById("player").currentTime') == pytest.approx(1, abs=0.01)
    tab.fill('#find', 'nobody at all')
    assert 'Nobody here is called nobody at all.' in tab.inner_text('#found')
    before = tab.locator('#rows').bounding_box()['width']
    tab.get_by_role('button', name='Zoom in').click()
    assert tab.locator('#rows').bounding_box()['width'] == pytest.approx(2 * before, rel=0.01)
    # Every control can be reached and has a name.
    assert tab.evaluate(
        '[...document.querySelectorAll("button")].every(b => (b.textContent || b.ariaLabel) && b.tabIndex >= 0)'
    )
    tab.emulate_media(color_scheme='dark')
    assert tab.evaluate('matchMedia("(prefers-color-scheme: dark)").matches')
    assert said == []
