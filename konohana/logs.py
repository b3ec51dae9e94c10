"""What TensorBoard shows of a run: curves, figures, pictures of predictions."""

from pathlib import Path

import numpy as np
from torch.utils.tensorboard import SummaryWriter

from konohana.drawing import draw_detections
from konohana.evaluation import COCO_NUMBERS
from konohana.images import load_image
from konohana.settings import UserError

N_PICTURES = 4  # frames of val shown, evenly spread
PICTURE_THRESHOLD = 0.3


class Log:
    """TensorBoard's event files of one run, as a context manager.

    Args:
        folder: where they go.
        iteration: where the run resumes; what a killed run had logged beyond it is hidden, so the curve continues.
    """

    def __init__(self, folder, iteration=0):
        try:
            Path(folder).mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UserError(f'{folder}: logs cannot be kept there ({error.strerror}). Set log_path.') from None
        self.writer = SummaryWriter(str(folder), purge_step=iteration + 1 if iteration else None, flush_secs=30)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.writer.close()

    def scalar(self, name, value, iteration):
        self.writer.add_scalar(name, value, iteration)

    def figures(self, figures, iteration):
        """The dict of `evaluation.evaluate`: COCO's twelve numbers, AP50 of each class, found at all, VOC."""
        for name in (*COCO_NUMBERS, 'AP50_agnostic', 'AP75_agnostic', 'VOC07_mAP'):
            self._known(f'val/{name}', figures[name], iteration)
        for name, value in figures['AP50_per_class'].items():
            self._known(f'val_AP50/{name}', value, iteration)

    def _known(self, name, value, iteration):
        if not np.isnan(value):
            self.writer.add_scalar(name, value, iteration)

    def pictures(self, dataset, detections, iteration):
        """A few frames of `dataset` with what was found in them."""
        chosen = np.linspace(0, len(dataset) - 1, min(N_PICTURES, len(dataset))).round().astype(int)
        for k, i in enumerate(chosen):
            image = load_image(dataset.frames[i].path)
            drawn = draw_detections(image, detections[i], dataset.class_names, threshold=PICTURE_THRESHOLD)
            self.writer.add_image(f'val/frame_{k + 1}', drawn, iteration, dataformats='HWC')
