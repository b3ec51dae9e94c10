"""How the pictures of one person spread among the embeddings of a second look.

Embeddings were learned to tell one cast apart. Of anybody else, some of their directions change a lot from picture to
picture, and others hardly at all. With the mean of strangers at zero, and scaled so that the pictures of one person
spread alike in all directions, the angle between two embeddings says far more about whether they show one person
(within-class covariance normalization, Hatch et al. 2006).

tools/measure_spread.py measures it and writes net.spread.npz beside net.pt.
"""

import io
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from konohana import checkpoint, files
from konohana.cast import SHARED_NAMES

ENDING = '.spread.npz'
FEWEST = 3  # pictures of a person that say how they spread
SHRINKAGE = 0.02  # part of the spread that is alike in all directions, whatever is measured


@dataclass(frozen=True)
class Spread:
    """The `mean` of strangers' embeddings (d), and the `matrix` (d x d) by which the spread gets even."""

    mean: np.ndarray
    matrix: np.ndarray

    def evened(self, embeddings):
        """n x d embeddings -> n x d, of unit length."""
        return unit((embeddings - self.mean) @ self.matrix)


def unit(vectors):
    """Vectors (in the last dimension) with the length 1."""
    return vectors / np.maximum(np.linalg.norm(vectors, axis=-1, keepdims=True), 1e-6)


def measured(shows):
    """The spread of people in several shows, each as important as the others for the mean, and each character for the
    rest.

    Args:
        shows: list of lists of people, dicts with `name` and `embeddings` (d). The mean is that of those under a name
            that several people may have; of everybody in a show without such.

    Returns:
        `Spread`, or None where nobody has `FEWEST` pictures.
    """
    within = []
    for show in shows:
        for name in sorted({person['name'] for person in show} - set(SHARED_NAMES)):
            own = np.stack([person['embeddings'] for person in show if person['name'] == name])
            if len(own) >= FEWEST:
                within.append(np.cov(own.T.astype(np.float64)))
    if not within:
        return None
    values, vectors = np.linalg.eigh(np.mean(within, axis=0))
    values = (1 - SHRINKAGE) * values + SHRINKAGE * values.mean()
    matrix = (vectors / np.sqrt(values)) @ vectors.T
    mean = np.mean([_mean_of_strangers(show) for show in shows if show], axis=0)
    return Spread(mean.astype(np.float32), (matrix / np.linalg.norm(matrix, 2)).astype(np.float32))


def _mean_of_strangers(show):
    strangers = [person for person in show if person['name'] in SHARED_NAMES]
    return np.mean([person['embeddings'] for person in strangers or show], axis=0)


def path_of(weights):
    """Where the spread of a weights file is: net.spread.npz beside net.pt and net.onnx."""
    return Path(weights).with_suffix(ENDING)


def save(spread, path, weights):
    """Write a spread. weights: the hash of the weights file that it was measured with."""
    buffer = io.BytesIO()
    # In half precision: 8 KB, and likenesses change by a thousandth.
    np.savez_compressed(buffer, weights=weights, mean=spread.mean, matrix=spread.matrix.astype(np.float16))
    files.write_bytes(path, buffer.getvalue(), remember=True)


def of(model):
    """The `Spread` that was measured with a detector's weights, of a file beside them or shipped; None without one.

    A line says so where the file beside them is damaged or of other weights.
    """
    if not model.weights_path:
        return None
    beside, weights = path_of(model.weights_path), hash_of(model)
    shipped = (path_of(files.shipped_folder() / name) for name in ('net.pt', 'net_det3.pt'))
    for path in (beside, *shipped):
        spread = _read(path, weights) if path.is_file() else None
        if spread is not None:
            return spread
    if beside.is_file():
        print(f'{beside}: it is of other weights or damaged, and not used. tools/measure_spread.py measures it again.')
    return None


def hash_of(model):
    """The hash of the weights file that a detector is from, also of one that was loaded from its graph.

    An exported file does not know the weights that it is of: its own hash stands for it.
    """
    return getattr(model, 'about', {}).get('weights') or checkpoint.hash_of(model.weights_path)


def _read(path, weights):
    """The `Spread` in a file; None where it is damaged or of other weights."""
    try:
        with np.load(io.BytesIO(files.read_bytes(path)), allow_pickle=False) as content:
            mean, matrix = content['mean'].astype(np.float32), content['matrix'].astype(np.float32)
            same = str(content['weights']) == weights
    except Exception:  # a damaged archive raises what its parts run into
        return None
    fits = mean.ndim == 1 and matrix.shape == (len(mean), len(mean)) and np.isfinite(matrix).all()
    return Spread(mean, matrix) if same and fits and np.isfinite(mean).all() else None
