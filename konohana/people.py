"""Who might be who in a show that no weights know: people are found whoever they are, and their looks are grouped.

`find_people` finds them, `looks_of` says how they look, `group` puts like looks together. A person then gives each
group a name in `names.txt` (`names_text`, `read_names`).
"""

import re

import cv2
import numpy as np
import torch
from scipy.cluster.hierarchy import fcluster, linkage
from scipy.spatial.distance import squareform

from konohana import files
from konohana.boxes import iou
from konohana.data.sample import check_name
from konohana.errors import UserError, count, printable

FEWEST = 3  # boxes of a group; those of smaller ones are left without a group
AVERAGE = 4  # boxes of a group on average, at least: of few boxes, too many groups would leave each of them alone
ONE = 0.6  # IoU of two boxes of one person
DROP = '-'  # instead of a name in names.txt
BINS = (12, 4, 4)  # of hue, saturation and value
PARTS = ((0.0, 0.34), (0.34, 0.67), (0.67, 1.0))  # rows of a crop whose colours are counted apart: head, chest, legs
MIDDLE = (0.16, 0.84)  # columns of a crop that hold little background


def find_people(found, threshold):
    """Detections of people, whoever they are.

    The flagship's score is the geometric mean of objectness (twice), quality and the name's probability. For people
    whom it does not know that probability says nothing, so it is taken out. Boxes of one person under two names, which
    other detectors give, become one.

    Args:
        found: `boxes` (n x 4), `scores` (n) and maybe `probabilities` (n x classes) of a picture, as arrays.
        threshold: score from which a detection counts.

    Returns:
        (boxes n x 4, scores n), best first.
    """
    boxes, scores = (np.asarray(found[key], np.float32) for key in ('boxes', 'scores'))
    if 'probabilities' in found and len(scores):
        named = np.asarray(found['probabilities']).max(axis=1)
        scores = np.minimum((scores**4 / np.maximum(named, 1e-6)) ** (1 / 3), 1)
    order = [i for i in np.argsort(-scores, kind='stable') if scores[i] >= threshold]
    kept = []
    for i in order:
        if not kept or iou(boxes[kept], boxes[i : i + 1]).max() < ONE:
            kept.append(i)
    return boxes[kept].reshape(-1, 4), scores[kept]


@torch.inference_mode()
def looks_of(model, crops):
    """How people look, for `group`. Anything better may take its place: only like looks need be near one another.

    Args:
        model: a detector; its `features` are half of a look, colours the other.
        crops: n x 3 x h x w, uint8 RGB: a person each, squashed to squares.

    Returns:
        list of arrays, n rows each: the features, if the detector gives them, and the colours.
    """
    crops = torch.as_tensor(crops)
    device = next(model.parameters()).device
    features = model.features(crops.to(device).float() / 255)
    colours = np.array([_colours(crop.permute(1, 2, 0).numpy()) for crop in crops], np.float32)
    return [colours] if features is None else [features.float().cpu().numpy(), colours]


def _colours(crop):
    """Histograms of hue, saturation and value of head, chest and legs, as square roots, which weigh rare colours."""
    hsv = cv2.cvtColor(np.ascontiguousarray(crop), cv2.COLOR_RGB2HSV)
    h, w = hsv.shape[:2]
    left, right = (round(f * w) for f in MIDDLE)
    counts = []
    for top, bottom in PARTS:
        part = np.ascontiguousarray(hsv[round(top * h) : round(bottom * h), left:right])
        counts.append(cv2.calcHist([part], [0, 1, 2], None, BINS, [0, 180, 0, 256, 0, 256]).ravel() / part[..., 0].size)
    return np.sqrt(np.concatenate(counts))


def group(looks, pictures, most):
    """Group boxes by looks: average linkage on the mean cosine distance; people of one picture are never one.

    Args:
        looks: list of arrays of n rows, see `looks_of`; each counts the same.
        pictures: n numbers: the picture that each box is in. most: groups at most; few boxes make fewer, see `AVERAGE`.

    Returns:
        n numbers: 1 for the largest group, 2 for the next ...; 0 for boxes of groups of fewer than `FEWEST`.
    """
    n, pictures = len(pictures), np.asarray(pictures)
    if n < 2:
        return np.zeros(n, int)
    distances = np.zeros((n, n))
    for look in looks:
        centred = look - look.mean(axis=0)
        centred /= np.maximum(np.linalg.norm(centred, axis=1, keepdims=True), 1e-9)
        distances += np.clip(1 - centred @ centred.T, 0, 2) / len(looks)
    distances[pictures[:, None] == pictures] = 4.0
    together = np.unique(pictures, return_counts=True)[1].max()  # fewer groups would make two of one picture one
    most = min(most, max(n // AVERAGE, together))
    np.fill_diagonal(distances, 0)
    found = fcluster(linkage(squareform(distances, checks=False), 'average'), most, 'maxclust')
    numbers, counts = np.unique(found, return_counts=True)
    order = [k for k in np.argsort(-counts, kind='stable') if counts[k] >= FEWEST]
    rank = {numbers[k]: i for i, k in enumerate(order, start=1)}
    return np.array([rank.get(k, 0) for k in found])


HEAD = """\
# Who is who? Look at the contact sheets beside this file and write a name after each "=".
#   the same name twice   makes two groups one person
#   -                     drops the boxes: nobody is there
#   {ignore}                marks regions where nothing is learned
#   box_12 = Aoi          names one box, by its number on the sheets, whatever its group is
# Groups without a name keep theirs. Then run the same command again.
"""


def names_text(people, ignore_class):
    """The text of a new names.txt. people: n group numbers, see `group`."""
    lines = [HEAD.format(ignore=ignore_class)]
    for number in range(1, int(np.max(people, initial=0)) + 1):
        lines.append(f'person_{number} =   # {np.count_nonzero(people == number)} boxes\n')
    single = np.count_nonzero(np.asarray(people) == 0)
    return ''.join([*lines, f'unsure = unsure   # {count(single, "box that is", "boxes that are")} like no others\n'])


def read_names(path, people):
    """Read names.txt.

    Args:
        path: the file. people: n group numbers.

    Returns:
        n names; `DROP` for boxes to drop.

    Raises:
        UserError: naming the line: not `key = name`, an unknown key, one given twice, or an impossible name.
    """
    groups = {f'person_{k}' if k else 'unsure': None for k in [0, *sorted(set(map(int, people)))]}
    given = {}
    for number, line in enumerate(files.read_text(path, 10_000_000).splitlines(), start=1):
        line = re.sub(r'(^|\s)#.*', '', line).strip()
        if not line:
            continue
        key, equals, name = (part.strip() for part in line.partition('='))
        box = re.fullmatch(r'box_(\d{1,7})', key)
        if not equals:
            problem = f'{printable(line[:40])!r} is not like "person_1 = Aoi"'
        elif not (key in groups or (box and 1 <= int(box[1]) <= len(people))):
            problem = f'there is no {printable(key[:40])!r}'
        elif key in given:
            problem = f'{key} is there twice'
        else:
            given[key] = name
            problem = _wrong_name(name)
        if problem:
            raise UserError(f'{path}: line {number}: {problem}.')
    names = [given.get(f'person_{k}' if k else 'unsure') or (f'person_{k}' if k else 'unsure') for k in people]
    return [given.get(f'box_{i}') or name for i, name in enumerate(names, start=1)]


def _wrong_name(name):
    try:
        if name:
            check_name(name)
    except ValueError as error:
        return f'{printable(name[:40])}: {error}'
    return ''
