"""What a check found: as text, and as one self-contained page."""

from collections import Counter
from pathlib import Path

import cv2
import numpy as np

from konohana import pages
from konohana.checkup.findings import KINDS
from konohana.data.images import load_image
from konohana.drawing import heat_map
from konohana.errors import UserError, printable
from konohana.progress import progress_bar

N_LINES = 6  # findings of a kind in the text
N_SHOWN = 250  # findings of a kind on the page
HEIGHT = 130  # of pictures, in pixels
MAP_HW = 90, 160  # of the pictures of places and sizes, in cells
SIZE_STEPS = 24  # of widths and heights, from 1 % of the picture to all of it


def counts_table(samples, splits):
    """(names of the columns, rows): pictures, objects by name, ignored regions of each split."""
    columns = list(dict.fromkeys(splits))
    per_split = {split: Counter() for split in columns}
    for sample, split in zip(samples, splits, strict=True):
        per_split[split].update(sample.names)
    names = sorted({name for count in per_split.values() for name in count})
    names.sort(key=lambda name: -sum(count[name] for count in per_split.values()))
    chosen = [[s for s, split in zip(samples, splits, strict=True) if split == column] for column in columns]
    rows = [
        ['pictures', *(len(part) for part in chosen)],
        ['pictures without anyone', *(sum(not len(s.boxes) for s in part) for part in chosen)],
        ['ignored regions', *(sum(len(s.ignored) for s in part) for part in chosen)],
        ['objects', *(sum(len(s.boxes) for s in part) for part in chosen)],
        *([name, *(per_split[column][name] for column in columns)] for name in names),
    ]
    return columns, rows


def text_of(root, samples, splits, findings, notes, n_lines=N_LINES):
    """The whole report as lines of text. notes: lines to say first. n_lines: findings of each kind; None is all."""
    columns, rows = counts_table(samples, splits)
    width = max(len(str(value)) for row in rows for value in row[1:])
    width = max(width, *(len(column) for column in columns), 6) if columns else 6
    lines = [f'{root}', ' '.join(f'{column:>{width}}' for column in columns)]
    lines += [' '.join(f'{value:>{width}}' for value in row[1:]) + f'  {printable(row[0])}' for row in rows]
    lines += ['', *notes]
    for kind, (title, advice) in KINDS.items():
        some = [one for one in findings if one.kind == kind]
        if not some:
            continue
        lines += ['', f'{title}: {len(some)}. {advice}']
        for one in some[:n_lines]:
            where = '' if one.picture is None else f'{samples[one.picture].path.name}: '
            lines.append(printable(f'  {where}{one.text}'))
        if n_lines and len(some) > n_lines:
            lines.append(f'  ... and {len(some) - n_lines} more')
    return lines


def ordered(findings):
    """Findings by kind, the worst of each first."""
    kinds = list(KINDS)
    return sorted(findings, key=lambda one: (kinds.index(one.kind), -one.weight))


def write_page(path, root, samples, splits, findings, notes, spell=str, progress=True):
    """Write the page of a check.

    Args:
        root: the dataset's folder, for the title. findings: ordered. notes: lines to say first.
        spell: function of a class name -> how to show it.
    """
    shown, count = [], Counter()
    for one in findings:
        count[one.kind] += 1
        if count[one.kind] <= N_SHOWN:
            shown.append(one)
    pictures = _pictures(shown, samples, progress)
    columns, rows = counts_table(samples, splits)
    data = {
        'root': Path(root).name,
        'notes': notes,
        'columns': columns,
        'rows': [[spell(row[0]), *map(str, row[1:])] for row in rows],
        'maps': _maps(samples),
        'kinds': [
            {'kind': kind, 'title': title, 'advice': advice, 'count': count[kind]}
            for kind, (title, advice) in KINDS.items()
            if count[kind]
        ],
        'findings': [
            {
                'kind': one.kind,
                'text': one.text,
                'file': '' if one.picture is None else samples[one.picture].path.name,
                'split': '' if one.picture is None else splits[one.picture],
                'names': list(map(spell, one.names)),
                'images': images,
            }
            for one, images in zip(shown, pictures, strict=True)
        ],
    }
    pages.write_page(path, Path(__file__).with_name('page.html'), data, title=f'Check of {Path(root).name}')


def _pictures(findings, samples, progress):
    """For each finding a list of data URLs: its picture, and the other one where there is one. Each is read once."""
    wanted = {}
    for number, one in enumerate(findings):
        parts = [] if one.picture is None else [(one.picture, one.boxes)]
        for place, (picture, boxes) in enumerate([*parts, *([one.other] if one.other else [])]):
            wanted.setdefault(picture, []).append((number, place, boxes))
    result = [{} for _ in findings]
    with progress_bar('Page', len(wanted), progress) as bar:
        for done, (picture, uses) in enumerate(wanted.items(), start=1):
            try:
                image = load_image(samples[picture].path)
            except UserError:
                continue
            for number, place, boxes in uses:
                result[number][place] = _shown(image, boxes, whole=findings[number].other is not None)
            bar.update(done)
    return [[urls[place] for place in sorted(urls)] for urls in result]


def _shown(image, boxes, whole):
    colours = [pages.LABELLED if labelled else pages.FOUND for _, labelled in boxes]
    around = 4.0 if whole else 0.6
    return pages.close_up(image, [box for box, _ in boxes], colours, HEIGHT, around)


def _maps(samples):
    """Pictures of where boxes are and how large: list of (title, note, data URL)."""
    places = np.zeros(MAP_HW)
    sizes = np.zeros((SIZE_STEPS, SIZE_STEPS))
    for sample in samples:
        sides = np.array([sample.width, sample.height] * 2)
        for x1, y1, x2, y2 in (sample.boxes / sides).clip(0, 1).tolist():
            rows = slice(int(y1 * MAP_HW[0]), max(int(y2 * MAP_HW[0]), int(y1 * MAP_HW[0]) + 1))
            places[rows, int(x1 * MAP_HW[1]) : max(int(x2 * MAP_HW[1]), int(x1 * MAP_HW[1]) + 1)] += 1
            # Steps of equal ratio from 1 % to 100 %.
            w, h = (int((1 + np.log10(max(part, 0.01)) / 2) * (SIZE_STEPS - 1)) for part in (x2 - x1, y2 - y1))
            sizes[SIZE_STEPS - 1 - h, w] += 1
    places /= max(places.max(), 1)
    sizes = (sizes / max(sizes.max(), 1)) ** 0.5
    large = cv2.resize(sizes, (240, 240), interpolation=cv2.INTER_NEAREST)
    return [
        (
            'Where boxes are',
            'left to right, top to bottom; bright: many',
            pages.data_url(heat_map(places, (180, 320)), 180),
        ),
        (
            'How large they are',
            'width across, height up, each from 1 % to 100 % of the picture in steps of equal ratio; bright: many',
            pages.data_url(heat_map(large, (240, 240)), 180),
        ),
    ]
