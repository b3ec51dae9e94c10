"""Detectors that a runtime computes from the frame as bytes to the detections. Nothing here needs PyTorch."""

import numpy as np

from konohana import naming
from konohana.data.images import as_picture, check_planes, cut_out, fit_size, resize
from konohana.own_cast import NamedByCast

MOST_CROPS = 4  # people that are looked at again at once: a runtime prepares itself for each number of them


class GraphDetector(NamedByCast):
    """A detector whose network and post-processing are one graph, computed picture by picture, under the contract of
    `detectors.base.Detector`. It does not train.

    Pictures are 3 x H x W, RGB, uint8 or float 0 to 1; floats are rounded to 8 bits, because the graph takes bytes. Of
    PyTorch's tensors the detections are tensors, of NumPy's arrays they are arrays.

    Args:
        session: what runs the graph, see `sessions`. about: its metadata, see `metadata.read`.
        look: what runs the graph of its second look, or None.
    """

    takes_bytes = True
    training = wants_masks = has_raw_outputs = False
    device = 'cpu'

    def __init__(self, session, about, look=None):
        self.session, self.second_look, self.about = session, look, about
        self.backend, self.maps = session.backend, tuple(about['maps'])
        self.class_names, self.img_hw = list(about['class_names']), tuple(about['img_hw'])
        self.looks_again = look is not None

    def eval(self):
        return self

    def train(self, mode=True):
        if mode:
            raise ValueError(f"{self.backend} does not train: load the weights with backend='torch'")
        return self

    def to(self, device):
        """Itself, on the CPU, so that code which moves a detector there goes on.

        Raises:
            ValueError: another device.
        """
        if str(device).partition(':')[0] != 'cpu':
            raise ValueError(f'{self.backend} computes on the CPU alone: load the weights with device={str(device)!r}')
        return self

    def __call__(self, images, targets=None, with_maps=False, pictures=None):
        """List of pictures -> list of detections; see `Detector`."""
        frames = [_as_frame(image) for image in images]
        larger = None if pictures is None else [_as_frame(picture) for picture in pictures]
        detections = self.detect(frames, with_maps, larger)
        if all(isinstance(image, np.ndarray) for image in images):
            return detections
        import torch  # here alone: these pictures are its tensors

        return [{key: torch.from_numpy(values) for key, values in found.items()} for found in detections]

    def detect(self, frames, with_maps=False, pictures=None):
        """List of uint8 H x W x 3 arrays -> list of detections, dicts of arrays; see `Detector.detect`."""
        frames = [as_picture(frame) for frame in frames]
        pictures = frames if pictures is None else [as_picture(picture) for picture in pictures]
        return self.named([self._detect(*both, with_maps) for both in zip(frames, pictures, strict=True)])

    def _detect(self, frame, picture, with_maps):
        height, width = frame.shape[:2]
        size = fit_size(height, width, self.img_hw)
        found = self.session.run(np.ascontiguousarray(resize(frame, size))[None])
        found['boxes'] = found['boxes'] * np.float32([width / size[1], height / size[0]] * 2)
        if self.looks_again:
            found = self._look_again(found, (height, width), picture)
        return found if with_maps else {key: values for key, values in found.items() if key not in self.maps}

    def _look_again(self, found, hw, picture):
        """Detections whose names the second look has settled, see `konohana.naming`."""
        how = self.about['second_look']
        rows = np.flatnonzero(naming.looked_at(found, self.looks_at_everyone))
        if not len(rows):
            return {**found, 'embeddings': np.zeros((len(found['scores']), how['embedding']), np.float32)}
        ratio = np.float32([picture.shape[1] / hw[1], picture.shape[0] / hw[0]] * 2)
        crops = cut_out(picture, found['boxes'][rows] * ratio, how['side'], how['margin'])
        parts = [self.second_look.run(crops[i : i + MOST_CROPS]) for i in range(0, len(crops), MOST_CROPS)]
        seen = (np.concatenate([part[key] for part in parts]) for key in ('embeddings', 'probabilities'))
        return naming.settled(found, rows, *seen)

    def try_look(self):
        """Take a second look once, if there is one, so that what is wrong with it is known from the start."""
        if self.looks_again:
            n_classes = len(self.class_names)
            found = {
                'boxes': np.float32([[0, 0, 32, 32]]),
                'labels': np.ones(1, np.int64),
                'scores': np.float32([0.9]),
                'probabilities': np.full((1, n_classes), 1 / n_classes, np.float32),
            }
            found = self._look_again(found, (64, 64), np.zeros((64, 64, 3), np.uint8))
            check_contract(found, self.class_names, (64, 64))


def _as_frame(image):
    """3 x H x W, an array or a tensor, uint8 or float 0 to 1 -> uint8 H x W x 3 array."""
    check_planes(image)
    values = np.asarray(image.detach().cpu() if hasattr(image, 'detach') else image)
    if values.dtype != np.uint8:
        values = (values * 255).round().clip(0, 255).astype(np.uint8)
    return np.ascontiguousarray(values.transpose(1, 2, 0))


def check_contract(found, class_names, hw):
    """Raise ValueError for detections of an `hw` picture that are no such detections."""
    found = {key: np.asarray(values) for key, values in found.items()}
    shapes = {'boxes': (4,), 'labels': (), 'scores': (), **({'masks': hw} if 'masks' in found else {})}
    for name, shape in shapes.items():
        values = found[name]
        if values.shape != (len(found['boxes']), *shape) or not np.isfinite(values).all():
            raise ValueError(f'{name} of shape {values.shape}')
    labels = found['labels']
    if len(labels) and not 1 <= labels.min() <= labels.max() <= len(class_names):
        raise ValueError('labels that are no classes')
