"""What went wrong in a test: who is taken for whom, the best threshold, and every mistake with its picture.

The rules are those of `summary.metrics_at_threshold`: detections, best first, each take the free object that they
overlap most, whatever its name. So the counts here add up to the precision, recall and names that are printed.
"""

from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import quote

import numpy as np

from konohana import pages
from konohana.boxes import iou
from konohana.data.images import load_image
from konohana.errors import UserError
from konohana.evaluation.summary import drop_unlabelled, match
from konohana.evaluation.voc_metrics import drop_ignored
from konohana.progress import progress_bar

NOBODY, EXCUSED = -1, -2  # what a detection falls on, where it is no object that counts
KINDS = ('missed', 'confused', 'nobody there')
N_SHOWN = 500  # mistakes on a page, worst first
TOUCHES = 0.1  # IoU from which a detection without an object is said to be near one
NOTHING = 'nothing found there'
HEIGHT = 170  # of the pictures, in pixels


@dataclass
class Found:
    """One detection: its picture's number, box, class (0 is the first), score, and the object (or NOBODY, EXCUSED)."""

    picture: int
    box: np.ndarray
    label: int
    score: float
    object: int = NOBODY


@dataclass
class Outcome:
    """A test: its samples and class names, the classes of each sample's objects, and all detections that count."""

    samples: list
    class_names: list
    labels: list  # of arrays: classes of the sample's objects, 0 is the first
    found: list = field(default_factory=list)

    @property
    def n_objects(self):
        return sum(int((~sample.difficult).sum()) for sample in self.samples)

    def drawn(self, threshold):
        """The detections from `threshold` on that are a hit or a mistake."""
        return [one for one in self.found if one.score >= threshold and one.object != EXCUSED]


def outcome_of(samples, detections, class_names, iou_threshold=0.5, unlabelled='background'):
    """Samples and their detections -> `Outcome`. Names that `class_names` lacks are added behind them."""
    unknown = sorted({name for sample in samples for name in sample.names} - set(class_names))
    names = [*class_names, *unknown]
    number = {name: i for i, name in enumerate(names)}
    result = Outcome(samples, names, [np.array([number[name] for name in sample.names], int) for sample in samples])
    for picture, (sample, found) in enumerate(zip(samples, detections, strict=True)):
        found = drop_ignored(found, sample.ignored)
        if unlabelled == 'ignore':
            found = drop_unlabelled(found, sample.boxes)
        pairs, excused = match(found, sample, iou_threshold)
        objects = {**dict(pairs), **dict.fromkeys(excused, EXCUSED)}
        rows = zip(found['boxes'], found['labels'].tolist(), found['scores'].tolist(), strict=True)
        for i, (box, label, score) in enumerate(rows):
            result.found.append(Found(picture, box, label - 1, score, objects.get(i, NOBODY)))
    return result


def confusion(outcome, threshold):
    """(n + 1) x (n + 1) counts at a threshold: labelled names down, names given across.

    The last row is nobody labelled, the last column is nobody found; the corner is 0.
    """
    n = len(outcome.class_names)
    counts = np.zeros((n + 1, n + 1), int)
    for labels, sample in zip(outcome.labels, outcome.samples, strict=True):
        np.add.at(counts, (labels[~sample.difficult], n), 1)
    for one in outcome.drawn(threshold):
        true = n if one.object == NOBODY else outcome.labels[one.picture][one.object]
        counts[true, one.label] += 1
        if one.object != NOBODY:
            counts[true, n] -= 1
    return counts


def f1_curves(outcome, thresholds):
    """(F1 of finding, F1 of finding and naming rightly), an array each, at the given thresholds."""
    drawn = outcome.drawn(0.0)
    scores = np.array([one.score for one in drawn])
    hit = np.array([one.object != NOBODY for one in drawn], bool)
    right = np.array([one.object >= 0 and outcome.labels[one.picture][one.object] == one.label for one in drawn], bool)
    curves = []
    for good in (hit, right):
        true = np.array([(good & (scores >= t)).sum() for t in thresholds])
        both = np.array([(scores >= t).sum() for t in thresholds]) + outcome.n_objects
        curves.append(2 * true / np.maximum(both, 1))
    return curves


THRESHOLDS = np.arange(1, 100) / 100


def best_threshold(outcome):
    """(threshold, F1 there) at which most are found and rightly named; of equal ones, the middle of the longest run."""
    _, named = f1_curves(outcome, THRESHOLDS)
    best = np.flatnonzero(named >= named.max() - 1e-9)
    runs = np.split(best, np.flatnonzero(np.diff(best) > 1) + 1)
    longest = max(runs, key=len)
    middle = longest[len(longest) // 2]
    return float(THRESHOLDS[middle]), float(named[middle])


def mistakes(outcome, threshold):
    """All mistakes at a threshold, worst first.

    A detection that is confused, or where nobody is labelled, is as bad as its score is high; an object that is missed,
    as large as it is in its picture and as far as its best detection is below the threshold.

    Returns:
        list of dicts of `kind` (of KINDS), `picture` (number of the sample), `true` and `given` (classes or None),
        `score` (or None), `labelled` and `found` (boxes or None), `near` (class and IoU of the object that a detection
        of nobody touches most, or None) and `weight` (0 to 1).
    """
    rows, by_picture = [], [[] for _ in outcome.samples]
    for one in outcome.found:
        by_picture[one.picture].append(one)
    for picture, (sample, labels, found) in enumerate(zip(outcome.samples, outcome.labels, by_picture, strict=True)):
        drawn = [one for one in found if one.score >= threshold]
        taken = {one.object for one in drawn}
        rows += [_wrong(picture, one, sample, labels) for one in drawn if _is_wrong(one, labels)]
        free = [j for j in range(len(labels)) if j not in taken and not sample.difficult[j]]
        rows += [_missed(picture, j, sample, labels, found, threshold) for j in free]
    return sorted(rows, key=lambda row: -row['weight'])


def _is_wrong(one, labels):
    return one.object == NOBODY or (one.object >= 0 and labels[one.object] != one.label)


def _wrong(picture, one, sample, labels):
    row = {'picture': picture, 'given': one.label, 'score': one.score, 'found': one.box, 'weight': one.score}
    if one.object != NOBODY:
        true = int(labels[one.object])
        return {**row, 'kind': 'confused', 'true': true, 'labelled': sample.boxes[one.object], 'near': None}
    overlaps = _overlaps(one.box, sample.boxes)
    best = int(overlaps.argmax()) if len(overlaps) else -1
    near = (int(labels[best]), float(overlaps[best])) if best >= 0 and overlaps[best] >= TOUCHES else None
    labelled = sample.boxes[best] if near else None
    return {**row, 'kind': 'nobody there', 'true': None, 'labelled': labelled, 'near': near}


def _missed(picture, j, sample, labels, found, threshold):
    box = sample.boxes[j]
    below = [one for one in found if one.score < threshold]
    overlaps = _overlaps(box, np.array([one.box for one in below]))
    there = [one for one, iou in zip(below, overlaps, strict=True) if iou >= 0.5]
    best = max(there, key=lambda one: one.score, default=None)
    part = float(np.prod(box[2:] - box[:2])) / max(sample.height * sample.width, 1)
    row = {'picture': picture, 'true': int(labels[j]), 'labelled': box, 'near': None, 'kind': 'missed'}
    row |= {'given': None, 'score': None, 'found': None}
    if best:
        row |= {'given': best.label, 'score': best.score, 'found': best.box}
    return {**row, 'weight': min(1.0, 3 * part**0.5) * (1 - (best.score if best else 0.0))}


def _overlaps(box, boxes):
    return iou(np.asarray(box, np.float32)[None], np.asarray(boxes, np.float32).reshape(-1, 4))[0]


def write_mistakes(path, outcome, threshold, sheets, spell=str, progress=True):
    """Write the page of all mistakes.

    Args:
        path: HTML file. sheets: the annotated picture of each sample, to which the page has links.
        spell: function of a class name -> how to show it.
    """
    rows = mistakes(outcome, threshold)
    names = [spell(name) for name in outcome.class_names]
    shown = _with_pictures(rows[:N_SHOWN], outcome, progress)
    data = {
        'threshold': threshold,
        'pictures': len(outcome.samples),
        'names': names,
        'total': len(rows),
        'counts': confusion(outcome, threshold).tolist(),
        'mistakes': [_entry(row, names, outcome.samples, sheets, Path(path).parent) for row in shown],
    }
    pages.write_page(path, Path(__file__).with_suffix('.html'), data, title='Mistakes')


def _with_pictures(rows, outcome, progress):
    """The rows with their `image`, a data URL; each picture is read once. One that cannot be read any more has none."""
    by_picture = {}
    for row in rows:
        by_picture.setdefault(row['picture'], []).append(row)
    with progress_bar('Mistakes', len(by_picture), progress) as bar:
        for done, (picture, some) in enumerate(by_picture.items(), start=1):
            try:
                image = load_image(outcome.samples[picture].path)
            except UserError:
                image = None
            for row in some:
                frames = [(row['labelled'], pages.LABELLED), (row['found'], pages.FOUND)]
                boxes, colours = zip(*[frame for frame in frames if frame[0] is not None], strict=True)
                row['image'] = '' if image is None else pages.close_up(image, boxes, colours, HEIGHT)
            bar.update(done)
    return rows


def _entry(row, names, samples, sheets, folder):
    """A mistake as the page shows it."""
    sheet = sheets[row['picture']]
    given = None if row['given'] is None else names[row['given']]
    return {
        'kind': row['kind'],
        'true': row['true'],
        'given': row['given'] if row['kind'] != 'missed' else None,
        'score': None if row['score'] is None else round(row['score'], 2),
        'why': _why(row, given, names),
        'image': row['image'],
        'file': samples[row['picture']].path.name,
        'sheet': quote(sheet.name) if sheet.parent == folder else '',
    }


def _why(row, given, names):
    """One more sentence about a mistake, or ''."""
    if row['kind'] == 'missed':
        # Rounded down: at this threshold it is found.
        return f'{given} would be found there at threshold {int(100 * row["score"]) / 100:.2f}' if given else NOTHING
    if row['near']:
        name, overlap = names[row['near'][0]], row['near'][1]
        where = 'a second box on' if overlap >= 0.5 else 'the box is off, or part of'
        return f'{where} {name} (IoU {overlap:.2f})'
    return ''
