"""One name for each track, from all its frames; two tracks that are seen at once do not share a named character."""

import numpy as np

FLOOR = 0.01  # probability below which one frame's opinion does not count further against a name


def track_probabilities(names, weights):
    """The probabilities of the names of one track from those of its detections.

    The weighted geometric mean: frames of one shot resemble one another, so their opinions are averaged, not multiplied
    as independent ones would be.

    Args:
        names: n x c probabilities, one row a detection. weights: n, how much each counts (quality, size).

    Returns:
        c probabilities, adding up to 1.
    """
    weights = np.asarray(weights, np.float64)
    mean = np.average(np.log(np.clip(names, FLOOR, 1)), axis=0, weights=weights if weights.sum() > 0 else None)
    mean = np.exp(mean - mean.max())
    return mean / mean.sum()


def choose_names(probabilities, spans, shared):
    """Choose a name for each track, the surest track first; who is on screen at the same time has another name.

    Args:
        probabilities: t x c, see `track_probabilities`. spans: t pairs of first and last frame, inclusive.
        shared: indices of names that several people may have at once, such as "other".

    Returns:
        (t chosen indices, t indices of the second best, or -1 where there is one name alone).
    """
    probabilities = np.asarray(probabilities, np.float64)
    chosen = np.full(len(probabilities), -1)
    if not len(probabilities):
        return chosen, chosen.copy()
    for i in np.argsort(-probabilities.max(axis=1), kind='stable'):
        free = probabilities[i].copy()
        for j in np.flatnonzero(chosen >= 0):
            together = spans[i][0] <= spans[j][1] and spans[j][0] <= spans[i][1]
            if together and chosen[j] not in shared:
                free[chosen[j]] = -1
        chosen[i] = int(free.argmax()) if free.max() >= 0 else int(probabilities[i].argmax())
    others = probabilities.copy()
    others[np.arange(len(others)), chosen] = -1
    second = np.where(others.max(axis=1) >= 0, others.argmax(axis=1), -1)
    return chosen, second
