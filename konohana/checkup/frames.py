"""Reading a dataset for a check: frames whose boxes reach beyond their picture too, which training refuses."""

import re

import numpy as np

from konohana.checkup.findings import Finding
from konohana.data.reading import read_frames
from konohana.data.sample import beyond_edges
from konohana.data.shapes import USUAL

AT_EDGE = 0.5  # pixels


def read_for_check(root, splits, ignore_class, progress=True):
    """All frames that can be used, if need be with boxes cut at the picture's edge.

    Returns:
        (list of `Sample`, the split of each, numbers of those whose boxes were cut, findings about what cannot be used
        and what was cut).

    Raises:
        UserError: see `reading.read_frames`.
    """
    parts, problems = read_frames(root, splits, ignore_class, progress)
    cut, lines = set(), []
    if problems:
        usable = {frame.path for part in parts for frame in part}
        with beyond_edges():
            parts, still = read_frames(root, splits, ignore_class, progress)
        lines = [line for line in problems if line not in set(still)]
        problems = still
        cut = {frame.path for part in parts for frame in part} - usable
    samples = [frame for part in parts for frame in part]
    # CVAT calls them Train and Validation.
    names = [split.lower() if split.lower() in USUAL else split for split in splits]
    split_of = [name for name, part in zip(names, parts, strict=True) for _ in part]
    numbers = {i for i, frame in enumerate(samples) if frame.path in cut}
    findings = [Finding('unreadable', line) for line in problems]
    return samples, split_of, numbers, [*findings, *_off_picture(samples, numbers, lines)]


def _off_picture(samples, numbers, lines):
    """A finding for each line about a box that reaches beyond its picture, and for each frame that no line names."""
    found, waiting = [], list(lines)
    for i in sorted(numbers):
        sample = samples[i]
        stem = re.compile(rf'(?<![\w-]){re.escape(sample.path.stem)}(?![\w-])')
        mine = [line for line in waiting if str(sample.path) in line or stem.search(line)]
        waiting = [line for line in waiting if line not in mine]
        size = np.array([sample.width, sample.height] * 2)
        at_edge = np.abs(sample.boxes - np.array([0, 0, *size[:2]])).min(axis=1, initial=9) < AT_EDGE
        boxes = [(box, True) for box, near in zip(sample.boxes, at_edge, strict=True) if near]
        names = tuple({name for name, near in zip(sample.names, at_edge, strict=True) if near})
        texts = [line.split(': ', 1)[-1] for line in mine] or ['a box reaches outside the picture']
        found += [Finding('off_picture', text, i, boxes, names=names) for text in texts]
    return found + [Finding('off_picture', line) for line in waiting]
