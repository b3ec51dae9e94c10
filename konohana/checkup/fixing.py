"""What can be put right by itself: the same samples without what a finding's `fix` says."""

from collections import Counter
from dataclasses import replace

import numpy as np


def fixed(samples, splits, findings):
    """Samples with what can be put right.

    Args:
        samples, splits: the frames that can be used, and the split of each.
        findings: list of `Finding`.

    Returns:
        ({split: list of `Sample`}, lines that say what was done).
    """
    drop_boxes, drop_pictures, rename = {}, set(), {}
    done = Counter()
    for one in findings:
        if one.fix is None:
            continue
        action, *what = one.fix
        if action == 'drop_box':
            drop_boxes.setdefault(what[0], set()).add(what[1])
        elif action == 'drop_picture':
            drop_pictures.update(what)
        else:
            rename[what[0]] = what[1]
    result = {split: [] for split in dict.fromkeys(splits)}
    for i, (sample, split) in enumerate(zip(samples, splits, strict=True)):
        if i in drop_pictures:
            done['pictures left out: leaks and repetitions'] += 1
            continue
        done['frames with boxes cut at the edge'] += bool(sample.cut)
        done['boxes left out: tiny ones and duplicates'] += len(drop_boxes.get(i, ()))
        done['objects renamed'] += sum(name in rename for name in sample.names)
        result[split].append(_without(sample, drop_boxes.get(i, set()), rename))
    return result, [f'{n} {what}' for what, n in done.items() if n]


def _final(name, rename):
    """A name after all renaming: a slip of a slip goes the whole way."""
    seen = set()
    while name in rename and name not in seen:
        seen.add(name)
        name = rename[name]
    return name


def _without(sample, boxes, rename):
    """A sample without some boxes, with other names."""
    keep = np.array([j not in boxes for j in range(len(sample.boxes))], bool)
    names = [_final(name, rename) for name, kept in zip(sample.names, keep, strict=True) if kept]
    masks = sample.masks and [mask for mask, kept in zip(sample.masks, keep, strict=True) if kept]
    return replace(sample, boxes=sample.boxes[keep], names=names, difficult=sample.difficult[keep], masks=masks)
