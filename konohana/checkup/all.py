"""All checks of a dataset, one after another."""

from dataclasses import dataclass, field

from konohana.checkup import findings as checks
from konohana.checkup import looks, opinions, report
from konohana.checkup.frames import read_for_check
from konohana.errors import UserError


@dataclass
class Check:
    """What is known after a check.

    `samples` and their `splits`; `findings` in order; `notes`, lines to say first; `near`, pairs of pictures that look
    alike (`looks.alike`).
    """

    samples: list
    splits: list
    findings: list
    notes: list
    near: list = field(default_factory=list)


def check_dataset(root, splits, ignore_class, model=None, threshold=opinions.SURE, batch_size=8, progress=True):
    """Check a dataset.

    Args:
        root: its folder. splits: names. ignore_class: name of boxes that mark regions that are not counted.
        model: a detector that looks for missing labels and others, or None. threshold: lowest score of a missing label.

    Returns:
        `Check`.

    Raises:
        UserError: see `reading.read_frames`; no frame can be used.
    """
    samples, split_of, found = read_for_check(root, splits, ignore_class, progress)
    if not samples:
        raise UserError('\n'.join([f'{root}: no frame can be used.', *(one.text for one in found[:20])]))
    seen = looks.look_at(samples, progress)
    pairs = looks.alike(seen.small, opinions.SCENE)
    near = [pair for pair in pairs if pair[2] >= looks.NEAR]
    found += checks.check_boxes(samples) + checks.check_names(samples) + checks.check_twice(samples)
    found += checks.check_alike(samples, split_of, seen, near) + checks.check_counts(samples, split_of)
    by_others = opinions.names_by_others(samples, seen, pairs)
    notes, detections = opinions.notes_about(by_others), None
    if model:
        notes += opinions.notes_about_weights(model.class_names, samples)
        detections = opinions.guesses(model, samples, batch_size, progress)
        done = sum(one is not None for one in detections)
        notes += [] if done == len(samples) else [f'Stopped early: the weights saw {done} of {len(samples)} pictures.']
        found += opinions.check_places(samples, detections, model.class_names, threshold)
        notes += opinions.notes_about_unlabelled(samples, found)
    found += opinions.check_opinions(samples, by_others, detections, model.class_names if model else ())
    return Check(samples, split_of, report.ordered(found), notes, near)
