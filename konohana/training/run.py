"""The state of a training run that must survive an interruption, and its files."""

import contextlib
import math
import os
import time
from pathlib import Path

import filelock
import torch

from konohana import checkpoint, detectors, distributed, files
from konohana.errors import UserError
from konohana.inference import weights_name
from konohana.training.schedule import load_optimizer

# Types of the entries of `optim.pt` that `checkpoint.load` does not check.
KINDS = {
    'optimizer': dict,
    'scaler': dict,
    'random': torch.Tensor,
    'order': dict,
    'best': (float, int),
    'ended': (dict, type(None)),
}
NEEDED = ('model', 'ema', 'ema_updates', 'epoch', 'batches_done', 'iteration', 'figures', 'description', *KINDS)
ABSENT_BEFORE = {'minutes': 0.0, 'ended': None}  # entries that files of earlier versions lack


def is_finished(state, settings):
    """Whether a run has used up its budget and evaluated its last epoch.

    Args:
        state: dict of `epoch`, `minutes` and `ended` (`optim.pt` holds them), or {} for a run that has not started.
        settings: namespace of `max_minutes` and `n_epoch`.
    """
    return state.get('ended') is None and time_is_over(state, settings)


def time_is_over(state, settings):
    """Whether the minutes of `max_minutes` (if that is not 0) or the `n_epoch` epochs are done; see `is_finished`."""
    if settings.max_minutes:
        return state.get('minutes', 0.0) >= settings.max_minutes
    return state.get('epoch', 0) >= settings.n_epoch


class Run:
    """The state of a training run that must survive an interruption, and its files.

    `net.pt` holds the averaged weights for testing, `optim.pt` everything needed to resume, `iter.txt` the number of
    iterations as text, `net_best.pt` the weights that were best on val. (With Res2: `net_det3.pt` ...)
    Of several processes (see `distributed`) only rank 0 writes them.

    Args:
        folder: where the files are. model, ema, optimizer, scaler: what is saved.
        description: dict of `detector`, `options`, `class_names`, `img_hw`, as weights files carry it.
        order: dict of what fixes the order of the samples (seed, batch size, number of frames).

    Attributes:
        epoch, batches_done, iteration: what is done; `batches_done` counts within the epoch.
        minutes: of training, without evaluation.
        ended: the mean losses of an epoch that has ended but is not yet evaluated and logged, else None.
        metrics: of the last evaluation. best: the highest AP of this run's evaluations, -1 before the first.
    """

    def __init__(self, folder, model, ema, optimizer, scaler, description, order, use_res2block=False):
        folder = Path(folder)
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UserError(
                f'{folder}: weights cannot be kept there ({error.strerror}). Set checkpoint_path or run_name.'
            ) from None
        self.net_file, self.optim_file = files_of(folder, use_res2block)
        self.best_file = self.net_file.with_stem(f'{self.net_file.stem}_best')
        self.iter_file = (folder / self.net_file.name.replace('net', 'iter')).with_suffix('.txt')
        self.model, self.ema, self.optimizer, self.scaler = model, ema, optimizer, scaler
        self.network = distributed.wrap(model)  # what is called in training
        self.description, self.order = description, order
        self.epoch = self.batches_done = self.iteration = 0
        self.minutes, self.ended = 0.0, None
        self.best, self.metrics = -1.0, {}
        self.saved_at = time.monotonic()

    @contextlib.contextmanager
    def locked(self):
        """Lock the run's files against other trainings; all processes of torchrun count as one.

        The system releases the lock when its process ends, so a killed run does not block the next.

        Raises:
            UserError: another training holds the lock.
        """
        if distributed.rank():
            yield
            return
        try:
            lock = locked(self.net_file.with_name(f'.{self.net_file.stem}.lock'), self.net_file)
        except (OSError, NotImplementedError) as error:
            raise UserError(
                f'{self.net_file.parent}: weights cannot be kept there ({error}). Set checkpoint_path or run_name.'
            ) from None
        with lock:
            yield

    def finished(self, settings):
        """Whether the minutes of `max_minutes` (if that is not 0) or the `n_epoch` epochs are done."""
        return time_is_over(vars(self), settings)

    def part_done(self, settings):
        """The share of its minutes or epochs that the run has done, 0 to 1."""
        return self.minutes / settings.max_minutes if settings.max_minutes else self.epoch / settings.n_epoch

    def position(self, settings):
        """The run's progress as text."""
        if settings.max_minutes:
            # The epoch that the bar shows: the minutes may be over in the middle of it.
            shown = self.epoch + (self.batches_done > 0)
            return f'{self.minutes:.1f} of {settings.max_minutes:g} minutes, epoch {shown}'
        return f'Epoch {self.epoch}/{settings.n_epoch}'

    def weights(self):
        """The content of a weights file."""
        return {'model': self.ema.model.state_dict(), **self.description, 'epoch': self.epoch, 'figures': self.metrics}

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
            'figures': self.metrics,
            'order': self.order,
            'description': self.description,
            'ended': self.ended,
        }
        checkpoint.save(state, self.optim_file)
        checkpoint.save(self.weights(), self.net_file)
        files.write_text(self.iter_file, f'{self.iteration}\n')

    def save_best(self, value):
        """Keep the present weights as the best if `value` is higher than any before.

        The best weights of an earlier run, which may have learned something else, are renamed.
        """
        if not value > self.best:
            return
        if self.best < 0 and self.best_file.is_file():
            kept = unused_name(self.best_file)
            os.replace(self.best_file, kept)
            print(f'{self.best_file.name} of an earlier run is now {kept.name}.')
        self.best = value
        checkpoint.save(self.weights(), self.best_file)

    def resume(self, n_batches=math.inf):
        """Resume from the files if they exist. Returns one line of text that says what happened, '' for a fresh start.

        Args:
            n_batches: batches of an epoch; files with a position beyond them are damaged.

        Raises:
            UserError: the files are damaged, or of a run with other classes, detector, options or network.
        """
        if not self.net_file.is_file():
            if self.optim_file.is_file():
                return f'{self.net_file.name} is missing: starting afresh. The old {self.optim_file.name} is not used.'
            return ''
        if not self.optim_file.is_file():
            raise UserError(
                f'{self.optim_file}: missing beside {self.net_file.name}, so training cannot resume. Move '
                f'{self.net_file.name} away to start afresh, or to start from it: init_from=<where you moved it>.'
            )
        state = load_state(self.optim_file)
        try:
            for key, kind in KINDS.items():
                if not isinstance(state[key], kind):
                    raise TypeError(f'its {key} is {type(state[key]).__name__}')
            self._refuse_other(state)
            self._take(state)
            if self.batches_done >= n_batches:
                raise ValueError(f'its batches_done is {self.batches_done}')
        except (ArithmeticError, AttributeError, LookupError, RuntimeError, TypeError, ValueError) as error:
            reason = (str(error).splitlines() or [type(error).__name__])[0]
            raise UserError(f'{self.optim_file}: damaged ({reason}). {self._fresh_start()}') from None
        return f'Resuming at epoch {self.epoch + 1}, iteration {self.iteration}.'

    def _fresh_start(self):
        return (
            f'Move {self.net_file.name} and {self.optim_file.name} away to start afresh '
            f'(init_from=<{self.net_file.name}> keeps what fits).'
        )

    def _refuse_other(self, state):
        """Raise UserError for the state of a run with another detector, options, classes or network."""
        before = dict(state['description'])
        if before.get('detector') == self.description.get('detector'):
            # Options added to the detector since then count as their defaults.
            before['options'] = detectors.options_of(before['detector'], before['options'])
        for key in ('detector', 'options', 'class_names'):
            old, new = before[key], self.description[key]
            if old != new:
                raise UserError(
                    f'{self.optim_file}: it belongs to a run with {key}={old}, now it is {new}. {self._fresh_start()}'
                )
        own = self.model.state_dict()
        for part in ('model', 'ema'):
            changed = [key for key in own if shape(own[key]) != shape(state[part].get(key))]
            changed += [key for key in state[part] if key not in own]
            if changed:
                then, now = shape(state[part].get(changed[0])), shape(own.get(changed[0]))
                raise UserError(
                    f'{self.optim_file}: the network has changed since: {changed[0]} was {then} and is {now} now, '
                    f'and {len(changed) - 1} other weights differ. Undo the change to resume. {self._fresh_start()}'
                )

    def _take(self, state):
        """Take over a state that fits."""
        self.model.load_state_dict(state['model'])
        self.ema.model.load_state_dict(state['ema'])
        self.ema.updates = state['ema_updates']
        load_optimizer(self.optimizer, self.model, state['optimizer'])
        if state['scaler']:  # a run on the CPU has none
            self.scaler.load_state_dict(state['scaler'])
        torch.set_rng_state(state['random'])
        self.epoch, self.iteration = state['epoch'], state['iteration']
        self.minutes, self.ended = state['minutes'], state['ended']
        if self.ended is not None and not all(isinstance(loss, float) for loss in self.ended.values()):
            raise TypeError('its ended is no dict of losses')
        self.best, self.metrics = state['best'], state['figures']
        # Another batch size, seed or dataset changes the order of the samples: then the epoch starts over.
        same_order = all(state['order'].get(key, False) == value for key, value in self.order.items())
        self.batches_done = state['batches_done'] if same_order else 0


def files_of(folder, use_res2block=False):
    """The files `net.pt` and `optim.pt` of a run, given its folder."""
    net_file = Path(folder) / weights_name(use_res2block)
    return net_file, net_file.with_name(net_file.name.replace('net', 'optim'))


def load_state(optim_file):
    """The content of an `optim.pt`, with what those of earlier versions lack; UserError as `checkpoint.load` says."""
    needed = [key for key in NEEDED if key not in ABSENT_BEFORE]
    return {**ABSENT_BEFORE, **checkpoint.load(optim_file, needed=needed)}


def begun(folder, use_res2block=False):
    """What the `optim.pt` of a run that can be resumed holds; None where there is no such run."""
    net_file, optim_file = files_of(folder, use_res2block)
    return load_state(optim_file) if net_file.is_file() and optim_file.is_file() else None


def locked(path, what):
    """Lock the file `path` against other trainings -> the lock, a context manager that releases it.

    Args:
        what: what the lock protects, as the message names it.

    Raises:
        UserError: another training holds the lock. OSError, NotImplementedError: no lock is possible there.
    """
    lock = filelock.FileLock(path)
    try:
        return lock.acquire(timeout=1)
    except filelock.Timeout:
        raise UserError(
            f'{what}: another training is writing it. Wait until it ends, stop it (Ctrl-C), or give this run its own '
            'files: run_name=<name>.'
        ) from None


def shape(value):
    """A tensor's shape as text, like 3 x 4; 'absent' for anything else."""
    return ' x '.join(map(str, value.shape)) or 'a number' if isinstance(value, torch.Tensor) else 'absent'


def unused_name(path):
    """A free name beside `path`: net_best_old.pt, net_best_old2.pt ..."""
    numbers = ('', *range(2, 10_000))
    return next(p for p in (path.with_stem(f'{path.stem}_old{n}') for n in numbers) if not p.exists())
