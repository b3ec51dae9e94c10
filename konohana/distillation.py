"""Learning from a trained network besides the labels (Hinton et al. 2015, Distilling the knowledge, 1503.02531).

A larger flagship (`_train.py stem_stride=2`) knows a frame's characters in frames that were augmented and pasted
together just as well as in those it learned, and says more than labels do: how sure it is, cell by cell, and of whom
else it thought.
"""

import torch

from konohana import checkpoint, half_precision, inference
from konohana.settings import UserError


class Teacher:
    """A trained flagship that tells a flagship in training what it sees in a batch.

    Args:
        path: its weights file. model: the `Konohana` that learns. class_names: its names.
        device: torch.device. amp: compute in half precision where that is quicker.

    Raises:
        UserError: see `checkpoint.load`; weights of another detector or of other names.
    """

    def __init__(self, path, model, class_names, device, amp=True):
        detector = checkpoint.load(path)['detector']
        if detector != 'konohana':
            raise UserError(f'{path}: a teacher is a flagship, detector=konohana, but this is a {detector!r}.')
        self.network = inference.load(path, str(device))
        if self.network.class_names != class_names:
            raise UserError(
                f'{path}: it learned the names {", ".join(self.network.class_names)}; to be learned are '
                f'{", ".join(class_names)}. Train a teacher on the same data.'
            )
        # The same object, so that both see frames at the same size throughout.
        self.network.transform = model.transform
        self.device, self.amp = device, amp

    @torch.no_grad()
    def look(self, images, targets):
        """A batch, see `Konohana` -> its targets, each with the dict `teacher` for `losses.teacher_losses`.

        These are predictions at the P anchor points of the picture: `confidence` (P) and `names` (P x n_classes) as
        probabilities, `boxes` (P x 4, in pixels of the batch), and `features`, the neck's map (c x h x w).
        """
        network = self.network
        batch, _ = network.transform(images)
        tensors = batch.tensors.contiguous(memory_format=torch.channels_last)
        with half_precision.autocast(self.device, self.amp):
            features = network.neck(network.backbone(tensors))
            seen = network.decode(network.heads(features))
        views = zip(
            *(seen['confidence'].sigmoid(), seen['names'].softmax(dim=-1), seen['boxes'], features.float()), strict=True
        )
        keys = ('confidence', 'names', 'boxes', 'features')
        return [
            {**target, 'teacher': dict(zip(keys, view, strict=True))}
            for target, view in zip(targets, views, strict=True)
        ]
