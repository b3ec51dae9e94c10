"""What went wrong in a test: counts that add up to what is printed, charts, and the page in a real browser."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from test_evaluation import NAMES, found, frame, random_case

from konohana import pages
from konohana.evaluation import charts, coco_metrics
from konohana.evaluation.mistakes import best_threshold, confusion, f1_curves, mistakes, outcome_of, write_mistakes
from konohana.evaluation.report import report_paths, write_report
from konohana.evaluation.summary import evaluate, metrics_at_threshold
from tests.test_episodes import HOSTILE

# One of each: 柚 found, 皋 called 柚, a missed 皋, nobody there beside a second box on the first.
LABELS = [(10, 10, 60, 60), (100, 10, 160, 60), (200, 10, 300, 110)]
GUESSES = [(10, 10, 60, 60), (100, 10, 160, 62), (12, 10, 60, 60), (400, 200, 440, 240), (200, 10, 300, 100)]


def one_picture(names=('柚', '皋', '皋')):
    return [frame(LABELS, names)], [found(GUESSES, [1, 1, 1, 2, 2], [0.9, 0.8, 0.7, 0.6, 0.3])]


@pytest.mark.parametrize('threshold', [0.05, 0.5, 0.77])
@pytest.mark.parametrize('unlabelled', ['background', 'ignore'])
@pytest.mark.parametrize('seed', range(2))
def test_the_counts_add_up_to_the_printed_metrics(seed, unlabelled, threshold):
    samples, detections = random_case(seed)
    samples[0].difficult[:] = True
    samples[1].ignored = samples[1].boxes[:1] + np.float32([-9, -9, 9, 9])
    outcome = outcome_of(samples, detections, NAMES, unlabelled=unlabelled)
    counts = confusion(outcome, threshold)
    at = metrics_at_threshold(samples, detections, NAMES, threshold, unlabelled=unlabelled)
    found_ones, named = counts[:-1, :-1].sum(), np.trace(counts[:-1, :-1])
    assert at['precision'] == pytest.approx(found_ones / counts[:, :-1].sum())
    assert at['recall'] == pytest.approx(found_ones / counts[:-1].sum())
    assert at['named'] == pytest.approx(named / found_ones)
    assert f1_curves(outcome, [threshold])[0][0] == pytest.approx(at['f1'])
    rows = mistakes(outcome, threshold)
    assert len(rows) == counts.sum() - named
    assert [row['weight'] for row in rows] == sorted((row['weight'] for row in rows), reverse=True)
    best, f1 = best_threshold(outcome)
    assert f1 == pytest.approx(f1_curves(outcome, np.arange(1, 100) / 100)[1].max())
    assert f1_curves(outcome, [best])[1][0] == pytest.approx(f1)


def test_each_mistake_is_what_it_is_called():
    outcome = outcome_of(*one_picture(), NAMES)
    rows = {row['kind']: [] for row in mistakes(outcome, 0.5)}
    for row in mistakes(outcome, 0.5):
        rows[row['kind']].append(row)
    (missed,), (confused,), nobody = rows['missed'], rows['confused'], rows['nobody there']
    assert (missed['true'], missed['given'], missed['score']) == (1, 1, pytest.approx(0.3))
    assert (confused['true'], confused['given']) == (1, 0)
    assert [row['near'] is not None and row['near'][0] for row in nobody] == [0, False]  # the second box on 柚 first
    assert mistakes(outcome, 0.25)[-1]['kind'] != 'missed'


def test_the_area_under_each_curve_is_the_printed_ap50():
    samples, detections = random_case(5)
    curves = coco_metrics.precision_recall(samples, detections, [*NAMES, 'nobody has it'])
    per_class = evaluate(samples, detections, NAMES)['AP50_per_class']
    assert set(curves) == set(NAMES)
    for name, (precision, _) in curves.items():
        assert precision.mean() == pytest.approx(per_class[name])


@pytest.mark.parametrize('names', [[], ['柚'], [f'$x_{i}^' for i in range(60)]])
def test_charts_of_any_number_of_names(names, tmp_path):
    samples = [frame(LABELS[: len(names[:3])], names[:3])]
    labels = list(range(1, 1 + len(names[:3])))
    detections = [found(LABELS[: len(labels)], labels, [0.9] * len(labels))]
    sheets = [tmp_path / 'a.jpg']
    lines, problems = write_report(tmp_path, samples, detections, names, 0.5, sheets, progress=False)
    assert problems == [] and len(lines) == (2 if names else 1)
    for path in report_paths(tmp_path)[:3]:
        with Image.open(path) as picture:
            assert min(picture.size) > 200


def test_rows_and_columns_are_the_counts():
    """A chart with all its mass in one cell has its darkest square there."""
    counts = np.zeros((3, 3), int)
    counts[0, 1] = 5
    data = charts.confusion_chart(counts, ['a', 'b'])
    assert data.startswith(b'\x89PNG') and data != charts.confusion_chart(counts.T, ['a', 'b'])


@pytest.mark.parametrize('on', [True, False])
def test_testing_writes_the_report_beside_the_sheets(run_script, toy_dataset, weights_file, tmp_path, on):
    out = tmp_path / 'out 花'
    options = (f'konohana_dataset_path={toy_dataset}', f'weights={weights_file}', f'test_out={out}', f'mistakes={on}')
    done = run_script('_test.py', *options, 'threshold=0.2')
    assert done.returncode == 0, done.stderr
    assert [path.is_file() for path in report_paths(out)] == [on] * 4
    assert ('mistakes.html' in done.stdout) == on
    if on:
        text = (out / 'mistakes.html').read_text(encoding='utf-8')
        data = json.loads(text.split('id="data">')[1].split('</script>')[0])
        assert data['mistakes'] and all((out / m['sheet']).is_file() for m in data['mistakes'])
        assert run_script('_test.py', *options).returncode == 0  # what it wrote itself it replaces
        (out / 'mistakes.html').write_text('mine', encoding='utf-8')
        assert run_script('_test.py', *options).returncode == 2
        assert (out / 'mistakes.html').read_text(encoding='utf-8') == 'mine'


@pytest.fixture
def opened(browser, tmp_path):
    """(page in the browser, list of what its console said, list of what it asked for besides itself)."""
    samples, detections = one_picture((HOSTILE, '皋', '皋'))
    samples[0].path = tmp_path / 'a #1.png'
    Image.new('RGB', (640, 360), (30, 90, 200)).save(samples[0].path)
    outcome = outcome_of(samples, detections, [HOSTILE, '皋', 'other'])
    write_mistakes(tmp_path / 'm.html', outcome, 0.5, [tmp_path / 'a #1.jpg'], progress=False)
    tab, said, asked = browser.new_page(), [], []
    tab.set_default_timeout(5000)
    tab.on('console', lambda message: said.append(message.text) if message.type in ('error', 'warning') else None)
    tab.on('pageerror', lambda error: said.append(str(error)))
    tab.on('request', lambda request: asked.append(request.url))
    address = (tmp_path / 'm.html').as_uri()
    tab.goto(address)
    yield tab, said, [url for url in asked if url != address and not url.startswith('data:')]
    tab.close()


def seen(tab):
    return [item.inner_text().split('\n')[0] for item in tab.locator('#cards li').all() if item.is_visible()]


def test_the_page_filters_by_kind_and_name_and_cell(opened):
    tab, said, asked = opened
    assert tab.inner_text('#shown') == '4 of 4 mistakes'
    assert seen(tab) == ['Confused', 'Nobody there', 'Nobody there', 'Missed']
    assert tab.locator('#cards img').count() == 4
    assert tab.evaluate('[...document.images].every(i => i.complete ? i.naturalWidth > 0 : true)')
    tab.select_option('#kind', 'missed')
    assert seen(tab) == ['Missed'] and tab.inner_text('#shown') == '1 of 4 mistakes'
    tab.select_option('#name', label=f'{HOSTILE} (2)')
    assert seen(tab) == []
    tab.select_option('#kind', '')
    assert seen(tab) == ['Confused', 'Nobody there']
    cell = tab.get_by_role('button', name=f'皋 called {HOSTILE}: 1', exact=True)
    cell.focus()
    cell.press('Enter')  # by keyboard
    assert seen(tab) == ['Confused'] and cell.get_attribute('aria-pressed') == 'true'
    tab.get_by_role('button', name='Show all').press('Space')
    assert len(seen(tab)) == 4
    assert said == [] and asked == []


def test_names_are_text_and_every_control_has_a_name(opened):
    tab, said, _ = opened
    assert HOSTILE in tab.inner_text('#cards') and tab.locator('main script, main img[src=x]').count() == 0
    assert tab.locator('#cards a').first.get_attribute('href') == 'a%20%231.jpg'
    controls = '[...document.querySelectorAll("button, select, a")]'
    assert tab.evaluate(f'{controls}.every(b => (b.textContent || b.ariaLabel) && b.tabIndex >= 0)')
    colours = []
    for scheme in ('dark', 'light'):
        tab.emulate_media(color_scheme=scheme)
        colours.append(tab.evaluate('getComputedStyle(document.querySelector(".filters")).backgroundColor'))
    assert colours[0] != colours[1] and said == []


def test_a_close_up_shows_the_frames_and_what_is_around():
    picture = np.zeros((100, 200, 3), np.uint8)
    for box in ((0, 0, 1, 1), (199, 99, 200, 100), (50, 20, 90, 60)):
        url = pages.close_up(picture, [box], [pages.FOUND], height=80)
        assert url.startswith('data:image/jpeg;base64,') and len(url) > 500
    assert len(pages.close_up(picture, [], [], height=80)) > 300
    assert Path(pages.__file__).with_suffix('.html').is_file()
