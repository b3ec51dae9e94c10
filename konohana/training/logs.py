"""What is written down of a run: for TensorBoard curves, figures, pictures of predictions; for the eye curves.png."""

import sys
from pathlib import Path

import numpy as np
from torch.utils.tensorboard import SummaryWriter

from konohana import distributed, masks
from konohana.data.images import load_image
from konohana.drawing import draw_detections
from konohana.errors import UserError
from konohana.evaluation.coco_metrics import COCO_NUMBERS
from konohana.training.curves import History

N_PICTURES = 4  # frames of val shown, evenly spread
PICTURE_THRESHOLD = 0.3


class Log:
    """TensorBoard's event files of one run, and its curves (see `curves.History`), as a context manager.

    Of several processes (see `distributed`) only rank 0 writes anything.

    Args:
        folder: where they go.
        iteration: where the run resumes; what a killed run had logged beyond it is hidden, so the curve continues.
    """

    def __init__(self, folder, iteration=0):
        self.writer = None
        if distributed.rank():
            return
        try:
            Path(folder).mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UserError(f'{folder}: logs cannot be kept there ({error.strerror}). Set log_path.') from None
        self.history, self.can_draw, self.drawn_at = History(folder, iteration), True, None
        self.writer = SummaryWriter(str(folder), purge_step=iteration + 1 if iteration else None, flush_secs=30)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        if self.writer:
            self.writer.close()
            if self.drawn_at != len(self.history.rows):
                self.draw()

    def scalar(self, name, value, iteration):
        if self.writer:
            self.writer.add_scalar(name, value, iteration)

    def epoch(self, epoch, iteration, losses, figures=None):
        """The end of an epoch: its mean losses, and the figures if there was an evaluation (else None)."""
        if not self.writer:
            return
        self.scalar('epoch', epoch, iteration)
        self.history.add(epoch, iteration, losses, figures)
        if figures:
            self.draw()

    def draw(self):
        """The curves as `curves.png`; it comes after every evaluation and at the end of a run."""
        self.drawn_at = len(self.history.rows)
        if not self.can_draw or not self.history.rows:
            return
        try:
            self.history.draw()
        except UserError as error:
            # A run of days does not end because a picture of it cannot be made.
            print(f'No {self.history.picture.name}: {error}', file=sys.stderr)
            self.can_draw = False

    def figures(self, figures, iteration):
        """The dict of `evaluation.evaluate`: COCO's twelve numbers (also of masks), AP50 of each class, VOC."""
        for name in (*COCO_NUMBERS, 'AP50_agnostic', 'AP75_agnostic', 'VOC07_mAP', 'VOC12_mAP'):
            for kind in ('', 'mask_'):
                if kind + name in figures:
                    self._known(f'val/{kind}{name}', figures[kind + name], iteration)
        for kind in ('', 'mask_'):
            for name, value in figures.get(f'{kind}AP50_per_class', {}).items():
                self._known(f'val_{kind}AP50/{name}', value, iteration)

    def _known(self, name, value, iteration):
        if not np.isnan(value):
            self.writer.add_scalar(name, value, iteration)

    def pictures(self, dataset, detections, iteration):
        """A few frames of `dataset` with what was found in them."""
        chosen = np.linspace(0, len(dataset) - 1, min(N_PICTURES, len(dataset))).round().astype(int)
        for k, i in enumerate(chosen):
            image = load_image(dataset.frames[i].path)
            found = dict(detections[i])
            if 'rles' in found:
                found['masks'] = masks.decode(found.pop('rles'), image.shape[:2])
            drawn = draw_detections(image, found, dataset.class_names, threshold=PICTURE_THRESHOLD)
            self.writer.add_image(f'val/frame_{k + 1}', drawn, iteration, dataformats='HWC')
