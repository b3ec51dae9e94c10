"""Second opinions about labels: from the data itself, each part judged by the others, and from a detector's weights.

The first needs no weights and no training: how an object's colours are named in pictures of other scenes (kernel ridge
regression, Saunders et al. 1998, in FOLDS-fold cross-validation over scenes). It judges names alone. The second finds
labels that are missing, on nobody, or do not fit too, and names where the weights know them.
"""

from itertools import pairwise

import numpy as np
from scipy.linalg import solve
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components

from konohana.boxes import iou as ious
from konohana.boxes import part_inside
from konohana.checkup.findings import Finding
from konohana.data.images import load_image
from konohana.interrupts import StopRequest
from konohana.progress import progress_bar

SCENE = 0.85  # likeness of pictures of one scene, which no fold separates
FOLDS = 5
SHARPNESS, RIDGE, CONTRAST = 4.0, 0.1, 8.0  # of the kernel, of the regression, and of shares made of its outputs
MOST = 4000  # objects that one fold learns from
LEAST = 3  # objects of a name, from which it can be judged
MARGIN, MARGIN_OF_BOTH = 0.5, 0.25  # by which another name leads: in one opinion, or in the mean of both
SURE, FITS, TOUCHES = 0.5, 0.5, 0.2  # score of somebody without a label; IoU of a label that fits, or is near
OFTEN = 0.2  # people without a label for each object, from which labels seem not to be complete
DOUBT = 0.08  # score below which the weights find nobody


def names_by_others(samples, looks, pairs):
    """What the rest of the data would call each object.

    Args:
        samples, looks: the frames and their `Looks`. pairs: of `looks.alike`, which no fold separates.

    Returns:
        (class names; list with an m x n_classes array of shares for each sample, rows of nan where nothing can be said;
        accuracy: the part of the objects that the others name as they are labelled).
    """
    owner = np.repeat(np.arange(len(samples)), [len(sample.names) for sample in samples])
    given = np.array([name for sample in samples for name in sample.names], object)
    names, labels, counts = np.unique(given.astype(str), return_inverse=True, return_counts=True)
    shares = np.full((len(given), len(names)), np.nan)
    usable = np.flatnonzero(counts[labels] >= LEAST) if len(given) else np.zeros(0, int)
    if (counts >= LEAST).sum() >= 2:
        colours = np.concatenate(looks.colours)[usable].astype(np.float32) / 2
        folds = _folds(len(samples), pairs)[owner[usable]]
        shares[usable] = _cross_validated(colours, labels[usable], len(names), folds)
    known = ~np.isnan(shares[:, :1]).any(axis=1)
    right = shares[known].argmax(axis=1) == labels[known] if known.any() else np.zeros(0)
    ends = np.cumsum([0, *(len(sample.names) for sample in samples)])
    split = [shares[a:b] for a, b in pairwise(ends)]
    return names.tolist(), split, float(np.mean(right)) if len(right) else float('nan')


def _folds(n, pairs):
    """The fold of each of n pictures; pictures that look alike, and what looks like them, are in one."""
    i, j = np.array([pair[:2] for pair in pairs if pair[2] >= SCENE], int).reshape(-1, 2).T
    _, scene = connected_components(coo_matrix((np.ones(len(i)), (i, j)), (n, n)), directed=False)
    return np.random.default_rng(0).integers(0, FOLDS, scene.max(initial=0) + 1)[scene]


def _cross_validated(rows, labels, n_classes, folds):
    """n x d features, n labels -> n x n_classes shares, of each fold from the others; nan where they are empty."""
    shares = np.full((len(rows), n_classes), np.nan)
    rng = np.random.default_rng(1)
    for fold in range(FOLDS):
        test, train = np.flatnonzero(folds == fold), np.flatnonzero(folds != fold)
        if not len(test) or not len(train):
            continue
        train = rng.permutation(train)[:MOST]
        kernel = np.exp((rows[train] @ rows[train].T - 1) * SHARPNESS)
        kernel[np.diag_indices_from(kernel)] += RIDGE
        weights = solve(kernel, np.eye(n_classes, dtype=np.float32)[labels[train]], assume_a='pos')
        for part in np.array_split(test, -(-len(test) // MOST)):
            outputs = np.exp((rows[part] @ rows[train].T - 1) * SHARPNESS) @ weights
            shares[part] = np.exp(outputs * CONTRAST)
    return shares / shares.sum(axis=1, keepdims=True)


def guesses(model, samples, batch_size=8, progress=True):
    """What weights find in each picture: list of detections. Ctrl-C ends it early: the rest is None."""
    found = [None] * len(samples)
    with StopRequest() as stop, progress_bar('Weights', len(samples), progress) as bar:
        for start in range(0, len(samples), batch_size):
            if stop.requested:
                break
            part = samples[start : start + batch_size]
            found[start : start + len(part)] = model.detect([load_image(sample.path) for sample in part])
            bar.update(start + len(part))
    return found


def check_places(samples, detections, class_names, threshold=SURE):
    """Findings where weights disagree on who is where: nobody labelled, nobody there, boxes that do not fit.

    Names that no label has are called somebody.
    """
    there = {name for sample in samples for name in sample.names}
    class_names = [name if name in there else 'somebody' for name in class_names]
    found = []
    for i, (sample, one) in enumerate(zip(samples, detections, strict=True)):
        if one is not None:
            found += _places(i, sample, one, class_names, threshold)
    return found


def _places(i, sample, one, class_names, threshold):
    boxes, scores = one['boxes'], one['scores'].tolist()
    labels = [class_names[k - 1] for k in one['labels'].tolist()]
    truth = sample.boxes
    overlaps = ious(boxes, truth)
    ignored = (part_inside(boxes, sample.ignored) > 0.5).any(axis=1)
    within = part_inside(boxes, truth)
    # Those that no label fits: each label may have been meant for the nearest of them.
    free = [k for k, score in enumerate(scores) if score >= threshold and not ignored[k]]
    free = [k for k in free if overlaps[k].max(initial=0) < FITS]
    nearest = overlaps[free].max(axis=0, initial=0)
    found, loose = [], {}
    for k in free:
        best = int(overlaps[k].argmax()) if len(truth) else -1
        iou = float(overlaps[k, best]) if best >= 0 else 0.0
        if iou >= TOUCHES and nearest[best] == iou:
            text = f'the box of {sample.names[best]} and the one found share little (IoU {iou:.2f})'
            pair = [(sample.boxes[best], True), (boxes[k], False)]
            loose[best] = Finding('loose', text, i, pair, None, scores[k] * (1 - iou), (sample.names[best],))
        elif best < 0 or within[k].max() < 0.7:
            text = f'the weights find {labels[k]} here, score {scores[k]:.2f}'
            found.append(Finding('missing', text, i, [(boxes[k], False)], None, scores[k], (labels[k],)))
    reached = np.where(overlaps >= TOUCHES, np.array(scores)[:, None], 0).max(axis=0, initial=0)
    for j, score in enumerate(reached.tolist()):
        if score < DOUBT:
            text = f'the weights find nobody where {sample.names[j]} is labelled'
            area = float((sample.boxes[j, 2:] - sample.boxes[j, :2]).prod()) ** 0.5
            box = [(sample.boxes[j], True)]
            found.append(Finding('nobody_there', text, i, box, None, area, (sample.names[j],)))
    return found + list(loose.values())


def check_opinions(samples, opinions, detections=None, class_names=()):
    """Findings where the rest of the data, and the weights where they know the names, call somebody otherwise.

    Args:
        opinions: (names, shares, accuracy) of `names_by_others`. detections: of `guesses`, or None.
        class_names: those that the weights know.
    """
    names, all_shares, _ = opinions
    number = {name: k for k, name in enumerate(names)}
    found = []
    for i, (sample, shares) in enumerate(zip(samples, all_shares, strict=True)):
        one = detections[i] if detections else None
        for j, given in enumerate(sample.names):
            total = [s for s in (_known(shares[j]), _by_weights(one, sample.boxes[j], given, number, class_names)) if s]
            if not total:
                continue
            mean = np.mean(total, axis=0)
            best = int(mean.argmax())
            lead = float(mean[best] - mean[number[given]])
            if lead >= (MARGIN_OF_BOTH if len(total) > 1 else MARGIN):
                who = ' and the weights' if len(total) > 1 else '' if not np.isnan(shares[j, 0]) else None
                judges = 'the weights' if who is None else f'objects of other scenes{who}'
                text = f'{given} looks like {names[best]} to {judges} (lead {lead:.2f})'
                box = [(sample.boxes[j], True)]
                found.append(Finding('wrong_name', text, i, box, None, lead, (given, names[best])))
    return found


def _known(shares):
    return None if np.isnan(shares).any() else shares.tolist()


def _by_weights(one, box, given, number, class_names):
    """Shares of the names for a labelled box by weights; None where they find nobody there, or do not know the name."""
    if one is None or given not in class_names or not len(one['boxes']):
        return None
    overlaps = ious(box[None], one['boxes'])[0]
    fitting = np.where(overlaps >= FITS, one['scores'], 0)
    best = int(fitting.argmax())
    if not fitting[best]:
        return None
    shares = np.zeros(len(number))
    if 'probabilities' in one:
        by_class = one['probabilities'][best].tolist()
    else:
        by_class = [0.0] * len(class_names)
        by_class[int(one['labels'][best]) - 1] = 1.0
    for name, share in zip(class_names, by_class, strict=True):
        if name in number:
            shares[number[name]] = share
    return (shares / shares.sum()).tolist() if shares.sum() > 0 else None


def notes_about(opinions):
    """Lines about how much the rest of the data can say, see `names_by_others`."""
    names, _, accuracy = opinions
    if np.isnan(accuracy):
        return [f'Names are not judged: {len(names)} of them, and two with {LEAST} objects or more are needed.']
    return [
        f'Colours in other scenes name {accuracy:.0%} of the objects as they are labelled: where they clearly say '
        'another name, the one given is listed below as one that may be wrong.'
    ]


def notes_about_unlabelled(samples, findings):
    """Lines for labels that seem not to be complete: somebody without one is a rule rather than an exception."""
    n, missing = sum(len(sample.boxes) for sample in samples), sum(one.kind == 'missing' for one in findings)
    if missing <= OFTEN * n:
        return []
    return [
        f'The weights find {missing} people without a label, beside {n} objects. If only some are labelled on purpose, '
        "train with unlabelled='ignore'."
    ]


def notes_about_weights(class_names, samples):
    """Lines about what weights can judge."""
    names = {name for sample in samples for name in sample.names}
    known = names & set(class_names)
    if known == names:
        return ['The weights know all names: they judge places and names.']
    return [f'The weights know {len(known)} of {len(names)} names: they judge places, and of the names only these.']
