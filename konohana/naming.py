"""Names from two opinions: the detector's, and that of a second look at those whose name it is not sure of.

The functions take NumPy's arrays as well as PyTorch's tensors, and need no PyTorch.
"""

import numpy as np

LOOK_FROM = 0.4  # score from which a box is looked at again: below, it is seldom shown, and looking takes time
SURE = 0.85  # probability from which the detector is believed: it is hardly ever wrong then, and looking takes time
LOOK_WEIGHT = 0.5  # of the second look's opinion against the detector's, 0 to 1

ROWS = ('boxes', 'labels', 'scores', 'probabilities', 'embeddings')  # of detections: a row for each person


def looked_at(found, everyone=False):
    """Which of n detections are looked at again: n bool. everyone: also those whose name the detector is sure of."""
    wanted = found['scores'] >= LOOK_FROM
    return wanted if everyone else wanted & unsure(found['probabilities'])


def unsure(probabilities):
    """Which of n rows of probabilities name nobody for sure: n bool."""
    return largest(probabilities) < SURE


def largest(probabilities):
    """The largest of each row."""
    return np.max(probabilities, axis=1) if isinstance(probabilities, np.ndarray) else probabilities.amax(dim=1)


def fused(detector, look, weight=LOOK_WEIGHT):
    """The weighted geometric mean of two opinions, n x c each, every row adding up to 1."""
    names = detector.clip(1e-8, 1) ** (1 - weight) * look.clip(1e-8, 1) ** weight
    return names / names.sum(1)[:, None]


def renamed(found, probabilities):
    """Detections under other names: labels, scores and their order follow `probabilities` (n x c).

    A score is the geometric mean of the objectness (counted twice), the quality and the name's probability, so it
    changes by the fourth root of what the probability changes by.
    """
    scores = found['scores'] * (largest(probabilities) / largest(found['probabilities'])) ** 0.25
    order = (-scores).argsort()
    found = {**found, 'labels': probabilities.argmax(1) + 1, 'scores': scores, 'probabilities': probabilities}
    return {key: value[order] if key in ROWS else value for key, value in found.items()}


def settled(found, rows, embeddings, opinions):
    """Detections of arrays after a second look at some of them.

    Args:
        found: a picture's detections, a dict of arrays. rows: m indices of those that were looked at.
        embeddings: m x d. opinions: m x c, the probabilities of their names.

    Returns:
        see `detectors.konohana.naming.look_again`.
    """
    names = found['probabilities'].copy()
    names[rows] = np.where(unsure(names[rows])[:, None], fused(names[rows], opinions), names[rows])
    seen = np.zeros((len(names), embeddings.shape[1]), np.float32)
    seen[rows] = embeddings
    return renamed({**found, 'embeddings': seen}, names)
