"""A cast from pictures: characters that are known by a few pictures of each, without training.

model.cast = konohana.read_cast('my_cast')   # a sub-folder with 1 to 20 pictures for each character

The detector finds people of any show, and the second look's embeddings tell them apart: whoever is found has the name
of the character whose pictures are nearest, or 'unknown' where none is near.
"""

import hashlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from konohana import files
from konohana.data.sample import check_name
from konohana.errors import UserError, count, printable

UNKNOWN = 'unknown'  # the name of whoever is none of the cast
MOST_PICTURES = 20  # of a character; of more, so many are taken, spread evenly
THRESHOLD = 0.5  # cosine with a character below which somebody is rather unknown
SHARPNESS = 12.0  # of the probabilities: they are the softmax of the cosines times this
SURE = 0.5  # score from which a second person in a picture of the cast is a problem
FAINT = 0.3  # score from which the person in a picture of the cast is found
MAIN = 3.0  # times as large as any other person: then it is the one that a picture shows


@dataclass(frozen=True)
class Cast:
    """Characters and their pictures, see `read_cast`.

    Attributes:
        pictures: {name: list of paths}. adds: whether the trained names stay, see `read_cast`.
        threshold: cosine below which somebody is rather unknown.
    """

    pictures: dict
    adds: bool = False
    threshold: float = THRESHOLD

    def identity(self):
        """A short text that differs between two casts by which people may get different names."""
        digest = hashlib.sha256(f'{self.adds} {self.threshold}'.encode())
        for name, paths in self.pictures.items():
            for path in paths:
                digest.update(name.encode() + files.read_bytes(path))
        return digest.hexdigest()[:16]


def read_cast(path, adds=False, threshold=THRESHOLD):
    """A cast from a folder: in it a sub-folder for each character, called as the character is, with pictures.

    A picture shows the whole frame with that one person in it, or the person cut out.

    Args:
        path: the folder.
        adds: the names that the detector was trained on stay, and the cast is added to them: new characters, or other
            clothes of those it knows. False: whoever is none of this cast is 'unknown'.
        threshold: cosine, -1 to 1, below which somebody is rather unknown (rather what the detector says, with `adds`).

    Returns:
        `Cast`. The pictures are opened when it is given to a detector: `model.cast = cast`.

    Raises:
        UserError: there is no such folder, no picture in it, or a sub-folder whose name can be no class name.
    """
    from konohana.data.images import list_pictures

    path = Path(path)
    with files.reading(path):
        if not path.is_dir():
            raise UserError(f'{path}: there is no such folder. A cast has a sub-folder of pictures for each character.')
        folders = sorted(folder for folder in path.iterdir() if folder.is_dir() and not folder.name.startswith('.'))
    if not folders:
        raise UserError(f'{path}: no sub-folders. A cast has one for each character, with 1 to 20 pictures in it.')
    pictures = {}
    for folder in folders:
        _check_folder_name(folder)
        found = list_pictures(folder)
        if len(found) > MOST_PICTURES:
            print(f'{printable(folder)}: {len(found)} pictures, of which {MOST_PICTURES} are taken.')
            found = [found[i] for i in np.linspace(0, len(found) - 1, MOST_PICTURES).round().astype(int)]
        pictures[folder.name] = found
    return Cast(pictures, adds, threshold)


def give(model, path, adds=False, threshold=THRESHOLD):
    """Let a detector name people by the cast in a folder, see `read_cast` -> (its pictures, a line about it)."""
    model.cast = cast = read_cast(path, adds, threshold)
    pictures = [picture for of_one in cast.pictures.values() for picture in of_one]
    kept = ', beside the names learned' if adds else ''
    return (
        pictures,
        f'Cast: {count(len(cast.pictures), "character")} by {count(len(pictures), "picture")}{kept}: {path}',
    )


def _check_folder_name(folder):
    try:
        check_name(folder.name.strip())
        folder.name.encode()
    except (ValueError, UnicodeEncodeError) as error:
        raise UserError(f'{printable(folder)[:200]}: it cannot be the name of a character ({error}).') from None
    if folder.name == UNKNOWN:
        raise UserError(f'{folder}: {UNKNOWN} is what everybody else is called. Rename or remove this folder.')


class KnownCast:
    """A cast as a detector knows it: by the embeddings of its pictures.

    Args:
        cast: a `Cast`. model: the detector, which finds the person in each picture.

    Attributes:
        class_names: what the labels mean from now on.

    Raises:
        UserError: the detector has no second look, or there is a character of whom no picture can be used. Other
            pictures that cannot be used are told in a line each.
    """

    def __init__(self, cast, model):
        if not model.looks_again:
            raise UserError(
                'cast: these weights have no second look, by which people are told apart. Take weights trained with '
                'second_look=True.'
            )
        self.threshold, trained = cast.threshold, list(model.class_names)
        self.names = list(cast.pictures)
        self.embeddings = [_embeddings(model, name, paths) for name, paths in cast.pictures.items()]
        new = [name for name in self.names if name not in trained]
        self.class_names = [*trained, *new] if cast.adds else [*self.names, UNKNOWN]
        self.columns = [self.class_names.index(name) for name in self.names]
        self.adds, self.n_trained = cast.adds, len(trained)

    def likeness(self, embeddings):
        """n x d embeddings -> n x c: how near each is to each character, as cosines."""
        return np.stack([likeness(embeddings, of_one) for of_one in self.embeddings], axis=1)

    def probabilities(self, found):
        """The probabilities of `class_names` for a detector's detections: n x c, each row adding up to 1.

        Whoever is not looked at (an embedding of zeros) is like nobody of the cast.
        """
        embeddings, trained = (found[key].cpu().numpy() for key in ('embeddings', 'probabilities'))
        seen = np.abs(embeddings).sum(axis=1) > 0
        logits = np.pad(self.likeness(embeddings) - self.threshold, ((0, 0), (0, 1))) * SHARPNESS
        logits[~seen, :-1] = -np.inf
        parts = np.exp(logits - logits.max(axis=1, keepdims=True))
        parts /= parts.sum(axis=1, keepdims=True)
        names = np.zeros((len(embeddings), len(self.class_names)), np.float32)
        if self.adds:
            names[:, : self.n_trained] = trained * parts[:, -1:]
        else:
            names[:, -1] = parts[:, -1]
        names[:, self.columns] += parts[:, :-1]
        return torch.from_numpy(names).to(found['probabilities'])


def likeness(embeddings, pictures):
    """How near n embeddings are to a character with m pictures (m x d): n cosines.

    The mean of two: with the nearest picture, which knows rare clothes, and with the mean of all, which is steadier.
    """
    cosines = embeddings @ pictures.T
    mean = pictures.mean(axis=0)
    return (cosines.max(axis=1) + embeddings @ (mean / max(np.linalg.norm(mean), 1e-6))) / 2


def _embeddings(model, name, paths):
    """The embeddings (m x d) of a character's pictures; those that cannot be used are told in a line each."""
    from konohana.data.images import load_image

    found, problems = [], []
    for path in paths:
        try:
            found.append(_one_person(_detected(model, load_image(path)), path))
        except UserError as error:
            problems.append(str(error))
    if not found:
        raise UserError('\n'.join([*problems, f'{printable(name)}: no picture of this character can be used.']))
    for problem in problems:
        print(f'Left out: {printable(problem)}')
    return np.stack(found)


@torch.inference_mode()
def _detected(model, image):
    """A detector's detections of a picture, uint8 H x W x 3, as arrays."""
    device = next(model.parameters()).device
    image = torch.from_numpy(image).to(device).permute(2, 0, 1)
    (found,) = model([image if model.takes_bytes else image.float() / 255])
    return {key: found[key].cpu().numpy() for key in ('boxes', 'scores', 'embeddings')}


def _one_person(detections, path):
    """The embedding of the one person that a picture of the cast shows; UserError if there is none, or are several."""
    boxes, scores = detections['boxes'], detections['scores']
    sizes = (boxes[:, 2:] - boxes[:, :2]).prod(axis=1) * (scores >= FAINT)
    if not sizes.any():
        raise UserError(f'{path}: nobody is found in it. Take a picture that shows the person larger or more whole.')
    best = int(np.where(scores >= min(SURE, scores.max()), sizes, 0).argmax())
    others = np.delete(np.where(scores >= SURE, sizes, 0), best)
    if others.size and sizes[best] < MAIN * others.max():
        n = int((others > 0).sum()) + 1
        raise UserError(f'{path}: {n} people are found in it. Cut out the one that is meant.')
    return detections['embeddings'][best]
