"""The files about a test that lie beside its sheets: three charts and a page of all mistakes."""

from collections import Counter
from pathlib import Path

import numpy as np

from konohana import files
from konohana.errors import installed, noting
from konohana.evaluation import charts
from konohana.evaluation.coco_metrics import precision_recall
from konohana.evaluation.mistakes import (
    THRESHOLDS,
    best_threshold,
    confusion,
    f1_curves,
    outcome_of,
    write_mistakes,
)

NAMES = ('confusion.png', 'precision_recall.png', 'f1.png', 'mistakes.html')


def report_paths(folder):
    """The files that `write_report` writes into a folder."""
    return [Path(folder) / name for name in NAMES]


def write_report(
    folder,
    samples,
    detections,
    class_names,
    threshold,
    sheets,
    *,
    unlabelled='background',
    label_names=None,
    font=None,
    progress=True,
):
    """Write all `report_paths`. One that cannot be written does not stop the others.

    Args:
        samples, detections, class_names, unlabelled: see `summary.evaluate`; names that `class_names` lacks may be in
            `samples`.
        threshold: at which mistakes are counted. sheets: paths of the samples' annotated pictures.
        label_names: {class name: other spelling}, or None. font: path of a font file to prefer, or None.
        progress: whether to show a progress bar.

    Returns:
        (lines to print, list of (path, error) of what could not be written).
    """
    outcome = outcome_of(samples, detections, class_names, unlabelled=unlabelled)
    spelled = {name: str((label_names or {}).get(name, name)) for name in outcome.class_names}
    counts = confusion(outcome, threshold)
    best = best_threshold(outcome)
    objects = Counter(name for sample in samples for name in np.array(sample.names, object)[~sample.difficult])

    def curves():
        curves = precision_recall(samples, detections, outcome.class_names)
        return charts.precision_recall_chart(curves, spelled, objects, threshold, font)

    drawn = (
        lambda: charts.confusion_chart(counts, list(spelled.values()), font),
        curves,
        lambda: charts.f1_chart(*f1_curves(outcome, THRESHOLDS), best, threshold),
    )
    (*chart_paths, page), lines, problems = report_paths(folder), [], []
    if not installed('matplotlib'):
        lines.append(f'{", ".join(path.name for path in chart_paths)} are left out: pip install matplotlib')
        chart_paths = []
    for path, draw in zip(chart_paths, drawn, strict=False):
        with noting(problems, path):
            files.write_bytes(path, draw(), remember=True)
    with noting(problems, page):
        write_mistakes(page, outcome, threshold, sheets, spelled.get, progress)
    if best[1] > 0:
        now = f1_curves(outcome, [threshold])[1][0]
        lines.append(
            f'Found and rightly named: F1 {now:.3f} at threshold {threshold:g}; the best here is {best[1]:.3f} at '
            f'threshold={best[0]:.2f}'
        )
    written = [path for path in (*chart_paths, page) if path not in {path for path, _ in problems}]
    if written:
        lines.append(f'What went wrong: {written[-1]}' + (f', and {len(written) - 1} charts' if written[1:] else ''))
    return lines, problems
