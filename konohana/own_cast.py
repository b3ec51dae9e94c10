"""A cast from pictures: characters that are known by a few pictures of each, without training.

model.cast = konohana.read_cast('my_cast')   # a sub-folder with 1 to 20 pictures for each character

The detector finds people of any show, and the second look's embeddings tell them apart: whoever is found has the name
of the character whose pictures are nearest on average, or 'unknown' where none is near.
"""

import contextlib
import hashlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from konohana import files, spread
from konohana.cast import SHARED_NAMES
from konohana.data.sample import check_name
from konohana.errors import UserError, count, printable
from konohana.naming import ROWS
from konohana.spread import unit

VERSION = 3  # raise when likenesses change: results by a cast are then made again
UNKNOWN = 'unknown'  # the name of whoever is none of the cast
MOST_PICTURES = 20  # of a character; of more, so many are taken, spread evenly
THRESHOLD = 0.6  # likeness below which somebody is rather unknown
COMMON = 0.5  # part that is taken out of what all characters have in common, see `Characters`
EXPONENT = 0.43  # of cosines of an even spread: they are smaller, and one threshold shall do for both
OPINION = 0.2  # of likenesses: what it takes off that the names learned say another thing of somebody
STRANGE = 0.3  # the same where they say "other" of somebody, and not of the character
USUAL = 0.75  # likeness of one character's pictures to one another, in the show that the thresholds were chosen for
LEVEL = 0.5  # part of what another cast is below that, which is added to its likenesses
LEVELS = -0.05, 0.2  # the least and the most that is: pictures of one scene are more alike than a character is
LEFT_OUT = 5  # pictures of each character that are compared with its other ones
SHARPNESS = 12.0  # of the probabilities: they are the softmax of the likenesses times this
SURE = 0.5  # score from which a second person in a picture of the cast is a problem
FAINT = 0.3  # score from which the person in a picture of the cast is found
FILLS = 0.5  # of a picture: so large a person is the one that it shows
MAIN = 3.0  # times as large as any other person: then it is the one that a picture shows


@dataclass(frozen=True)
class Cast:
    """Characters and their pictures, see `read_cast`.

    Attributes:
        pictures: {name: list of paths}. adds: whether the trained names stay, see `read_cast`.
        threshold: likeness below which somebody is rather unknown.
    """

    pictures: dict
    adds: bool = False
    threshold: float = THRESHOLD

    def identity(self, weights):
        """A short text that differs between two casts by which people may get different names.

        weights: path of the weights file; its own spread may be measured later, see `spread`.
        """
        digest, measured = hashlib.sha256(f'{VERSION} {self.adds} {self.threshold}'.encode()), spread.path_of(weights)
        digest.update(files.read_bytes(measured) if measured.is_file() else b'')
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
        threshold: likeness, -1 to 1, below which somebody is rather unknown, or with `adds` what the detector says.

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
        folders = _folders(path)
    if not folders:
        raise UserError(f'{path}: no sub-folders. A cast has one for each character, with 1 to 20 pictures in it.')
    _tell_misplaced(path, folders)
    names = [folder.name for folder in folders]
    _tell_alike(names, names)
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


def _folders(path):
    return sorted(folder for folder in path.iterdir() if folder.is_dir() and not folder.name.startswith('.'))


def _tell_misplaced(path, folders):
    """Print a line for each folder whose pictures are nobody's: that of the cast, and folders in a character's."""
    from konohana.data.images import PICTURE_ENDINGS

    places = [(path, 'into the folders of their characters')]
    with files.reading(path):
        places += [(inner, f'into {folder}') for folder in folders for inner in _folders(folder)]
        for place, where in places:
            n = sum(file.suffix.lower() in PICTURE_ENDINGS and file.is_file() for file in place.iterdir())
            if n:
                print(f'Left out: {printable(place)}: {count(n, "picture")} there. Move them {printable(where)}.')


def _tell_alike(names, others):
    """Print a line for each of some names that differs from one of the others in capitals or Unicode form alone."""
    known = {files.same_name(name): name for name in others}
    for name in names:
        other = known.get(files.same_name(name), name)
        if other != name:
            print(f'{printable(name)} and {printable(other)} are two characters: spell them alike if they are one.')


def _check_folder_name(folder):
    try:
        check_name(folder.name.strip())
        folder.name.encode()
    except (ValueError, UnicodeEncodeError) as error:
        raise UserError(f'{printable(folder)[:200]}: it cannot be the name of a character ({error}).') from None
    if folder.name == UNKNOWN:
        raise UserError(f'{folder}: {UNKNOWN} is what everybody else is called. Rename or remove this folder.')


class NamedByCast:
    """What a detector needs to name people by a cast: `model.cast = read_cast('my_cast')`.

    The detector calls `named` at the end, and has `class_names`, `looks_again` and `detect` (frames as arrays ->
    detections as arrays).
    """

    _cast = _known = _trained_names = None
    weights_path = None  # the weights file that it was loaded from
    looks_at_everyone = False  # the detector gives embeddings of people, too, whose names it is sure of

    @property
    def cast(self):
        """The `Cast` by which people are named instead of, or besides, the names learned; None without one."""
        return self._cast

    @cast.setter
    def cast(self, cast):
        """Name people by a cast from now on, or, with None, as before. `class_names` are then the cast's.

        Raises:
            UserError: see `KnownCast`.
        """
        if self._known is not None:
            self._cast, self._known, self.class_names = None, None, self._trained_names
        self.looks_at_everyone = cast is not None
        try:
            if cast is not None:
                known = KnownCast(cast, self)
                self._trained_names, self.class_names = self.class_names, known.class_names
                self._cast, self._known = cast, known
        finally:
            self.looks_at_everyone = self._known is not None

    def named(self, detections):
        """Detections, of arrays or of tensors, under the names of the cast; as they are without one."""
        return detections if self._known is None else [self._known.name(found) for found in detections]


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
        names = list(cast.pictures)
        people = [_people(model, *item) for item in cast.pictures.items()]
        self.characters = Characters(people, spread.of(model), [name in SHARED_NAMES for name in trained])
        new = [name for name in names if name not in trained]
        if cast.adds:
            _tell_alike(new, trained)
        self.class_names = [*trained, *new] if cast.adds else [*names, UNKNOWN]
        self.columns = [self.class_names.index(name) for name in names]
        self.adds, self.n_trained = cast.adds, len(trained)

    def probabilities(self, embeddings, trained):
        """The probabilities of `class_names`.

        Args:
            embeddings: n x d, zeros of whoever is not looked at, who is then like nobody of the cast.
            trained: n x n_trained, the detector's own.

        Returns:
            n x len(class_names), float32, each row adding up to 1.
        """
        logits = np.pad(self.characters.likeness(embeddings, trained) - self.threshold, ((0, 0), (0, 1))) * SHARPNESS
        logits[~embeddings.any(axis=1), :-1] = -np.inf
        parts = np.exp(logits - logits.max(axis=1, keepdims=True))
        parts /= parts.sum(axis=1, keepdims=True)
        names = np.zeros((len(embeddings), len(self.class_names)), np.float32)
        if self.adds:
            names[:, : self.n_trained] = trained * parts[:, -1:]
        else:
            names[:, -1] = parts[:, -1]
        names[:, self.columns] += parts[:, :-1]
        return names

    def name(self, found):
        """One picture's detections -> the same under the names of the cast, the best scores first.

        A score changes as the second look's do (see `detectors.konohana.naming`), by the fourth root of what the
        name's probability changes by; that of whoever is not looked at stays.
        """
        arrays = {key: np.asarray(found[key].cpu() if hasattr(found[key], 'cpu') else found[key]) for key in ROWS}
        names = self.probabilities(arrays['embeddings'], arrays['probabilities'])
        ratio = names.max(axis=1) / arrays['probabilities'].max(axis=1)
        seen = arrays['embeddings'].any(axis=1)
        scores = np.where(seen, arrays['scores'] * ratio**0.25, arrays['scores']).astype(np.float32)
        order = np.argsort(-scores, kind='stable')
        new = {**arrays, 'labels': names.argmax(axis=1) + 1, 'scores': scores, 'probabilities': names}
        return {**found, **{key: _like(found[key], new[key][order]) for key in ROWS}}


def _like(old, new):
    """An array as a tensor on the same device, if the old values are one."""
    if isinstance(old, np.ndarray):
        return new
    import torch  # here alone: they are its tensors

    return torch.from_numpy(new).to(old.device)


class Characters:
    """How near people are to each of c characters, by their pictures' embeddings, and by what the names learned say.

    A character is the mean direction of the pictures (prototypes, Snell et al. 2017, https://arxiv.org/abs/1703.05175).
    What all characters have in common, the style of the show above all, tells none of them apart: a part of it is taken
    out, so that one threshold does for a show that the network has learned and for one that it has not. For the same
    reason likenesses are raised where even pictures of one character are less alike than usual.

    Args:
        people: list of c lists, one for each character, of its pictures as `look_at` returns them: the embeddings of
            one picture (k x d) and the probabilities of the names learned (k x n_trained).
        of_people: the `spread.Spread` of these embeddings, which makes strangers far less like the cast; or None.
        shared: n_trained bools, which of the names learned several people may have; () for none.
        level: what is added to all likenesses; None finds it out.
    """

    def __init__(self, people, of_people=None, shared=(), level=None):
        self.of_people = of_people
        whole = [[np.concatenate(parts) for parts in zip(*own, strict=True)] for own in people]
        self.said = np.stack([probabilities.mean(axis=0) for _, probabilities in whole])
        self.shared = np.asarray(shared if len(shared) else [False] * self.said.shape[1])
        centres = unit(np.stack([self._evened(embeddings).mean(axis=0) for embeddings, _ in whole]))
        # Of a single character all would be common to all.
        self.common = centres.mean(axis=0) * COMMON * min(1.0, len(centres) / 2)
        self.centres = unit(centres - self.common)
        self.level = np.clip(LEVEL * (USUAL - self._alike(people)), *LEVELS) if level is None else level

    def _alike(self, people):
        """How alike the pictures of one character are: the mean likeness of each to the others."""
        found = []
        for k in range(min(LEFT_OUT, max(map(len, people)))):
            rest = [own[:k] + own[k + 1 :] if len(own) > 1 else own for own in people]
            others = Characters(rest, self.of_people, self.shared, level=0.0)
            found += [others.likeness(*own[k])[0, j] for j, own in enumerate(people) if len(own) > max(k, 1)]
        return np.mean(found) if found else USUAL

    def likeness(self, embeddings, probabilities):
        """n x d embeddings, n x n_trained probabilities of the names learned -> n x c, 1 for the most alike."""
        cosines = unit(self._evened(embeddings) - self.common) @ self.centres.T
        if self.of_people is not None:
            cosines = np.sign(cosines) * np.abs(cosines) ** EXPONENT
        # The names learned know a part of any show's people apart, and strangers of their own show.
        agreement = np.sqrt(probabilities) @ np.sqrt(self.said.T)  # Bhattacharyya's coefficient, 0 to 1
        strange = probabilities[:, self.shared].sum(axis=1)[:, None] - self.said[:, self.shared].sum(axis=1)
        return cosines - OPINION * (1 - agreement) - STRANGE * np.maximum(strange, 0) + self.level

    def _evened(self, embeddings):
        return embeddings if self.of_people is None else self.of_people.evened(embeddings)


def _people(model, name, paths):
    """A character's pictures, see `look_at`. Those that cannot be used are told in a line each."""
    from konohana.data.images import load_image

    found, problems = [], []
    for path in paths:
        try:
            found.append(look_at(model, load_image(path), path))
        except UserError as error:
            problems.append(str(error))
    if not found:
        more = f' {len(problems) - 1} more cannot be used either.' if problems[1:] else ''
        raise UserError(f'{printable(name)}: no picture of this character can be used. {problems[0]}{more}')
    for problem in problems:
        print(f'Left out: {printable(problem)}')
    return found


def look_at(model, image, path):
    """The one person that a picture of the cast shows, as it is and, where that person is found there too, mirrored.

    Returns:
        (embeddings, 2 x d or 1 x d; probabilities of the names learned, 2 x n_trained or 1 x n_trained).

    Raises:
        UserError: nobody is found, or several people.
    """
    rows = [_one_person(model.detect([image])[0], image.shape[:2], path)]
    with contextlib.suppress(UserError):
        rows.append(_one_person(model.detect([np.ascontiguousarray(image[:, ::-1])])[0], image.shape[:2], path))
    return tuple(np.stack(parts) for parts in zip(*rows, strict=True))


def _one_person(detections, hw, path):
    """(embedding, probabilities) of the one person in a picture of the cast; UserError if there is none, or several."""
    boxes, scores = detections['boxes'], detections['scores']
    sizes = (boxes[:, 2:] - boxes[:, :2]).prod(axis=1) * (scores >= FAINT)
    if not sizes.any():
        raise UserError(f'{path}: nobody is found in it. Take a picture that shows the person larger or more whole.')
    best = int(np.where(scores >= min(SURE, scores.max()), sizes, 0).argmax())
    others = np.delete(np.where(scores >= SURE, sizes, 0), best)
    if others.size and sizes[best] < min(MAIN * others.max(), FILLS * hw[0] * hw[1]):
        n = int((others > 0).sum()) + 1
        raise UserError(f'{path}: {n} people are found in it. Cut out the one that is meant.')
    return detections['embeddings'][best], detections['probabilities'][best]
