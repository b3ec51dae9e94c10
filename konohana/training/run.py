"""Everything of a training run that must survive an interruption, and its files."""

import time
from pathlib import Path

import torch

from konohana import checkpoint, detectors, distributed, files
from konohana.errors import UserError
from konohana.inference import weights_name


def is_finished(state, settings):
    """Whether a run has had its time.

    Args:
        state: dict of `epoch` and `minutes` done (`optim.pt` holds them), or {} for a run that has not begun.
        settings: dict of `max_minutes` and `n_epoch`; the first counts if it is not 0.
    """
    if settings['max_minutes']:
        return state.get('minutes', 0.0) >= settings['max_minutes']
    return state.get('epoch', 0) >= settings['n_epoch']


class Run:
    """Everything of a training run that must survive an interruption, and its files.

    `net.pt` holds the averaged weights for testing, `optim.pt` all that is needed to go on, `iter.txt` the number of
    iterations to read at a glance, `net_best.pt` the weights that were best on val. (With Res2: `net_det3.pt` ...)
    Of several processes (see `distributed`) only rank 0 writes them.

    Args:
        folder: where the files are. model, ema, optimizer, scaler: what is saved.
        description: dict of `detector`, `options`, `class_names`, `img_hw`, as weights files carry it.
        order: dict of what fixes the order of the samples (seed, batch size, number of frames).
    """

    def __init__(self, folder, model, ema, optimizer, scaler, description, order, use_res2block=False):
        folder = Path(folder)
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UserError(
                f'{folder}: weights cannot be kept there ({error.strerror}). Set checkpoint_path.'
            ) from None
        self.net_file = folder / weights_name(use_res2block)
        self.best_file = self.net_file.with_stem(f'{self.net_file.stem}_best')
        self.optim_file = folder / self.net_file.name.replace('net', 'optim')
        self.iter_file = (folder / self.net_file.name.replace('net', 'iter')).with_suffix('.txt')
        self.model, self.ema, self.optimizer, self.scaler = model, ema, optimizer, scaler
        self.network = distributed.wrap(model)  # what is called in training
        self.description, self.order = description, order
        self.epoch = self.batches_done = self.iteration = 0  # batches_done counts within the epoch
        self.minutes = 0.0  # of training, without evaluation
        self.best, self.figures = -1.0, {}
        self.saved_at = time.monotonic()

    def finished(self, settings):
        """Whether the minutes of `max_minutes` (if that is not 0) or the `n_epoch` epochs are done."""
        return is_finished(vars(self), settings)

    def part_done(self, settings):
        """How far the run is, 0 to 1: of its minutes or of its epochs."""
        return self.minutes / settings['max_minutes'] if settings['max_minutes'] else self.epoch / settings['n_epoch']

    def position(self, settings):
        """How far the run is, as text."""
        if settings['max_minutes']:
            return f'{self.minutes:.1f} of {settings["max_minutes"]:g} minutes, epoch {self.epoch}'
        return f'Epoch {self.epoch}/{settings["n_epoch"]}'

    def weights(self):
        """The content of a weights file."""
        return {'model': self.ema.model.state_dict(), **self.description, 'epoch': self.epoch, 'figures': self.figures}

    def save(self):
        """Write all files. `optim.pt` comes first and is complete in itself, so a kill between files is harmless."""
        self.saved_at = time.monotonic()
        if distributed.rank():
            return
        state = {
            'model': self.model.state_dict(),
            'ema': self.ema.model.state_dict(),
            'ema_updates': self.ema.updates,
            'optimizer': self.optimizer.state_dict(),
            'scaler': self.scaler.state_dict(),
            'random': torch.get_rng_state(),
            'epoch': self.epoch,
            'batches_done': self.batches_done,
            'iteration': self.iteration,
            'minutes': self.minutes,
            'best': self.best,
            'figures': self.figures,
            'order': self.order,
            'description': self.description,
        }
        checkpoint.save(state, self.optim_file)
        checkpoint.save(self.weights(), self.net_file)
        files.write_text(self.iter_file, f'{self.iteration}\n')

    def save_best(self, value):
        """Keep the present weights as the best if `value` is higher than any before."""
        if value > self.best:
            self.best = value
            checkpoint.save(self.weights(), self.best_file)

    def resume(self):
        """Go on from the files if they are there. Returns what happened as one line of text, '' for a fresh start.

        Raises:
            UserError: the files are damaged, or of a run with other classes, detector or options.
        """
        if not self.net_file.is_file():
            if self.optim_file.is_file():
                return f'{self.net_file.name} is gone: starting afresh; the old {self.optim_file.name} is not used.'
            return ''
        if not self.optim_file.is_file():
            raise UserError(
                f'{self.optim_file}: missing beside {self.net_file.name}, so that training cannot be resumed. Move '
                f'{self.net_file.name} away to start afresh, or to start from it: init_from=<where you moved it>.'
            )
        state = checkpoint.load(self.optim_file, needed=('model', 'ema', 'optimizer', 'description', 'order'))
        before = dict(state['description'])
        if before.get('detector') == self.description.get('detector'):
            # Options that the detector has gained since then had what is now their default.
            before['options'] = detectors.options_of(before['detector'], before['options'])
        for key in ('detector', 'options', 'class_names'):
            old, new = before[key], self.description[key]
            if old != new:
                raise UserError(
                    f'{self.optim_file}: it is of a run with {key}={old}, now it is {new}. Move {self.net_file.name} '
                    f'and {self.optim_file.name} away to start afresh (init_from=<net.pt> keeps what fits).'
                )
        self.model.load_state_dict(state['model'])
        self.ema.model.load_state_dict(state['ema'])
        self.ema.updates = state['ema_updates']
        try:
            self.optimizer.load_state_dict(state['optimizer'])
        except ValueError:
            raise UserError(
                f'{self.optim_file}: the optimizer in it is of another version of konohana. Move {self.net_file.name} '
                f'and {self.optim_file.name} away and go on by init_from=<where you moved {self.net_file.name}>.'
            ) from None
        self.scaler.load_state_dict(state['scaler'])
        torch.set_rng_state(state['random'])
        self.epoch, self.iteration = state['epoch'], state['iteration']
        self.minutes = state.get('minutes', 0.0)  # older files have none
        self.best, self.figures = state['best'], state['figures']
        # With another batch size, seed or data the order is another: then the epoch begins anew.
        same_order = all(state['order'].get(key, False) == value for key, value in self.order.items())
        self.batches_done = state['batches_done'] if same_order else 0
        return f'Resuming at epoch {self.epoch + 1}, iteration {self.iteration}.'
