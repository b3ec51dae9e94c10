"""A run's logs: curves, metrics and pictures of predictions for TensorBoard, and curves.png."""

import contextlib
import sys
import threading
from pathlib import Path

import numpy as np
from torch.utils.tensorboard import SummaryWriter

from konohana import distributed, masks
from konohana.data.images import load_image
from konohana.drawing import draw_detections
from konohana.errors import UserError
from konohana.evaluation.coco_metrics import COCO_NUMBERS
from konohana.training.curves import History
from konohana.training.run import locked

N_PICTURES = 4  # frames of val shown, evenly spread
PICTURE_THRESHOLD = 0.3


class Log:
    """TensorBoard's event files of one run, and its curves (see `curves.History`), as a context manager.

    Where they cannot be written (a full disk, a read-only folder), one line says so and training continues without.
    Of several processes (see `distributed`) only rank 0 writes anything.

    Args:
        folder: folder to write to.
        iteration: where the run resumes; points that a killed run logged beyond it are hidden, so the curve continues.

    Raises:
        UserError: `curves.jsonl` is damaged; there is a file where the folder should be; on entering, another training
            writes to the folder.
    """

    def __init__(self, folder, iteration=0):
        self.folder, self.iteration = Path(folder), iteration
        self.history, self.writer, self.drawn_at, self.lacking = None, None, None, set()
        self.held = contextlib.ExitStack()
        if distributed.rank():
            return
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except (FileExistsError, NotADirectoryError) as error:
            raise UserError(f'{folder}: logs cannot be kept there ({error.strerror}). Set log_path.') from None
        except OSError:
            pass  # reported when something is written to it
        self.history = History(folder, iteration)

    def __enter__(self):
        if self.history:
            with contextlib.suppress(OSError, NotImplementedError):
                self.held.enter_context(locked(self.folder / '.logs.lock', self.folder))
        self.previous_hook, threading.excepthook = threading.excepthook, self._thread_failed
        if self.history:
            with self._or_without('TensorBoard logs'):
                first = self.iteration + 1 if self.iteration else None
                self.writer = SummaryWriter(str(self.folder), purge_step=first, flush_secs=30)
        return self

    def __exit__(self, *_):
        if self.history and self.drawn_at != len(self.history.rows):
            self.draw()
        if self.writer:
            with self._or_without('TensorBoard logs'):
                self.writer.close()
        threading.excepthook = self.previous_hook
        self.held.close()

    def _thread_failed(self, failure):
        """TensorBoard's writer thread passes its OSError to the next call here; its traceback adds nothing."""
        if not issubclass(failure.exc_type, OSError):
            self.previous_hook(failure)

    @contextlib.contextmanager
    def _or_without(self, what):
        """Turn a failure to write `what` into one line, once: a run of days does not end because of its logs."""
        try:
            yield
        except (OSError, UserError) as error:
            reason = error if isinstance(error, UserError) else f'{self.folder}: {error.strerror or error}'
            if what not in self.lacking:
                print(f'Warning: no {what}; training continues. {reason}', file=sys.stderr)
            self.lacking.add(what)

    def _write(self, method, *arguments, **options):
        """Call a method of TensorBoard's writer, as long as it can write."""
        if self.writer and 'TensorBoard logs' not in self.lacking:
            with self._or_without('TensorBoard logs'):
                getattr(self.writer, method)(*arguments, **options)

    def scalar(self, name, value, iteration):
        """A point of one of TensorBoard's curves; nan is left out."""
        if not np.isnan(value):
            self._write('add_scalar', name, value, iteration)

    def epoch(self, epoch, iteration, losses, metrics=None):
        """Log the end of an epoch: its mean losses, and the metrics of its evaluation (or None)."""
        if not self.history:
            return
        self.scalar('epoch', epoch, iteration)
        with self._or_without(self.history.file.name):
            self.history.add(epoch, iteration, losses, metrics)
        if metrics:
            self.draw()

    def draw(self):
        """Draw `curves.png`: after every evaluation and at the end of a run."""
        self.drawn_at = len(self.history.rows)
        name = self.history.picture.name
        if self.history.rows and name not in self.lacking:
            with self._or_without(name):
                self.history.draw()

    def metrics(self, metrics, iteration):
        """Log the dict of `evaluation.evaluate`: COCO's twelve numbers (also of masks), AP50 of each class, VOC."""
        for name in (*COCO_NUMBERS, 'AP50_agnostic', 'AP75_agnostic', 'VOC07_mAP', 'VOC12_mAP'):
            for kind in ('', 'mask_'):
                if kind + name in metrics:
                    self.scalar(f'val/{kind}{name}', metrics[kind + name], iteration)
        for kind in ('', 'mask_'):
            for name, value in metrics.get(f'{kind}AP50_per_class', {}).items():
                self.scalar(f'val_{kind}AP50/{name}', value, iteration)

    def pictures(self, dataset, detections, iteration):
        """Log a few frames of `dataset` with their detections."""
        chosen = np.linspace(0, len(dataset) - 1, min(N_PICTURES, len(dataset))).round().astype(int)
        for k, i in enumerate(chosen):
            image = load_image(dataset.frames[i].path)
            found = dict(detections[i])
            if 'rles' in found:
                found['masks'] = masks.decode(found.pop('rles'), image.shape[:2])
            drawn = draw_detections(image, found, dataset.class_names, threshold=PICTURE_THRESHOLD)
            self._write('add_image', f'val/frame_{k + 1}', drawn, iteration, dataformats='HWC')
