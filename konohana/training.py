"""The parts of a training run: optimizer, schedule, average of weights, checkpoints, one epoch."""

import contextlib
import copy
import math
import os
import signal
import time
from pathlib import Path

import torch
from torch import nn

from konohana import checkpoint, detectors, distributed, half_precision
from konohana.inference import weights_name
from konohana.progress import progress_bar
from konohana.settings import UserError

# What a CUDA process takes beside PyTorch's allocator: context, kernels, cuDNN handles. The cap leaves room for it.
CUDA_CONTEXT_GIB = 0.5


class Ema:
    """Exponential moving average of a model's weights and buffers, used for testing (Polyak averaging).

    The decay starts low and rises to `decay`, min(decay, (1 + n) / (10 + n)) after n updates, so that the average of a
    short run is not made of its first weights. `ema.model` is the averaged model, in evaluation mode.
    """

    def __init__(self, model, decay=0.998):
        self.model = copy.deepcopy(model).eval().requires_grad_(False)
        self.decay, self.updates = decay, 0

    @torch.no_grad()
    def update(self, model):
        self.updates += 1
        decay = min(self.decay, (1 + self.updates) / (10 + self.updates))
        averaged, current = self.model.state_dict(), model.state_dict()
        floats = [key for key, value in averaged.items() if value.is_floating_point()]
        torch._foreach_lerp_([averaged[k] for k in floats], [current[k] for k in floats], 1 - decay)
        for key in averaged.keys() - set(floats):
            averaged[key].copy_(current[key])


def make_optimizer(model, lr, weight_decay, backbone_lr=1.0):
    """AdamW (Loshchilov and Hutter 2019, 1711.05101); no decay of norms, biases and other vectors.

    The parameters of `model.backbone` learn at `backbone_lr` times the rate: each group's `lr_factor` says so.
    """
    groups = [
        {'params': [], 'weight_decay': decay, 'lr_factor': factor}
        for factor in (backbone_lr, 1.0)
        for decay in (weight_decay, 0.0)
    ]
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            groups[2 * (not name.startswith('backbone.')) + (parameter.ndim <= 1)]['params'].append(parameter)
    groups = [group for group in groups if group['params']]
    return torch.optim.AdamW(groups, lr=lr)


def learning_rate(lr, epochs_done, n_epoch, warmup_epochs, time_used=None):
    """Linear warm-up to `lr`, then a cosine to a hundredth of it (Loshchilov and Hutter 2017, 1608.03983).

    It is a function of the position alone (`epochs_done` counts parts of epochs), so resuming needs no state.

    Args:
        time_used: None, or the part of the run's time that is used up, 0 to 1: then the cosine follows it in the place
            of n_epoch, and warm-up ends where the two meet, if an epoch takes that long.
    """

    def cosine(part):
        return 0.01 + 0.99 * (1 + math.cos(math.pi * min(part, 1.0))) / 2

    rising = max(epochs_done / warmup_epochs, 0.001) if epochs_done < warmup_epochs else 1.0
    if time_used is not None:
        return lr * min(rising, cosine(time_used))
    if rising < 1:
        return lr * rising
    return lr * cosine((epochs_done - warmup_epochs) / max(n_epoch - warmup_epochs, 1e-9))


def cap_gpu_memory(device, limit_gib):
    """Make allocations fail that would take this process's GPU memory over `limit_gib` GiB, its CUDA context included.

    0 sets no limit; without CUDA nothing happens.
    """
    if device.type != 'cuda' or not limit_gib:
        return
    if limit_gib <= CUDA_CONTEXT_GIB:
        raise UserError(f'vram_limit_gib={limit_gib}: CUDA itself takes about {CUDA_CONTEXT_GIB} GiB. Allow more.')
    total = torch.cuda.get_device_properties(device).total_memory / 2**30
    torch.cuda.set_per_process_memory_fraction(min(1.0, (limit_gib - CUDA_CONTEXT_GIB) / total), device)


def peak_memory_gib(device):
    """Most memory this process has held so far, in GiB: of the GPU if it trains there, else of the machine; or None."""
    if device.type == 'cuda':
        return torch.cuda.max_memory_reserved(device) / 2**30 + CUDA_CONTEXT_GIB
    try:
        import resource
    except ImportError:  # Windows
        return None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (2**30 if os.uname().sysname == 'Darwin' else 2**20)


class StopRequest:
    """Turns the first Ctrl-C (or a polite kill) into a request that the loop obeys between two iterations.

    A second Ctrl-C stops at once. Use as a context manager.
    """

    def __init__(self):
        self.requested = False

    def __enter__(self):
        self.previous = {s: signal.signal(s, self._handle) for s in (signal.SIGINT, signal.SIGTERM)}
        return self

    def __exit__(self, *_):
        for number, handler in self.previous.items():
            signal.signal(number, handler)

    def _handle(self, *_):
        if self.requested:
            raise KeyboardInterrupt
        self.requested = True


def ignore_interrupts(_worker_id):
    """For loader processes: Ctrl-C is the main process's to handle."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)


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
        checkpoint.write_text(self.iter_file, f'{self.iteration}\n')

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


def train_one_epoch(run, loader, device, settings, stop, write_scalar):
    """Train from `run.batches_done` to the end of the epoch, or until a stop is requested or `max_minutes` are over.

    Args:
        run: a `Run`. device: torch.device.
        loader: DataLoader of (images uint8, targets) over an `EpochBatches` sampler.
        settings: dict of `lr`, `n_epoch`, `max_minutes`, `warmup_epochs`, `accumulate`, `clip_norm`, `amp`,
            `save_minutes`, `progress`.
        stop: a `StopRequest`; one made to any of several processes counts for all.
        write_scalar: function of (name, value, iteration), for TensorBoard.

    Returns:
        (dict of mean losses over the epoch's part trained here, images a second).

    Raises:
        UserError: a loss that is not finite; the batch's pictures are named.
    """
    optimizer, max_minutes = run.optimizer, settings['max_minutes']
    frames = loader.dataset.frames
    run.network.train()
    sampler = loader.batch_sampler
    sampler.epoch, sampler.skip = run.epoch, run.batches_done
    batch_sizes = [len(batch) for batch in sampler.batches()]
    n_batches, skipped = len(batch_sizes), sum(batch_sizes[: run.batches_done])
    sums, n_images, started, minutes_before = {}, 0, time.monotonic(), run.minutes
    optimizer.zero_grad(set_to_none=True)
    title = f'Epoch {run.epoch + 1}' + ('' if max_minutes else f'/{settings["n_epoch"]}')
    shown = {'loss': 'loss {formatted_value}', 'parts': '{formatted_value}', 'memory': '{formatted_value}'}
    with progress_bar(title, sum(batch_sizes), settings['progress'], 'images', **shown) as bar:
        for images, targets in loader:
            epochs_done = run.epoch + run.batches_done / n_batches
            time_used = run.minutes / max_minutes if max_minutes else None
            lr = learning_rate(settings['lr'], epochs_done, settings['n_epoch'], settings['warmup_epochs'], time_used)
            for group in optimizer.param_groups:
                group['lr'] = lr * group.get('lr_factor', 1.0)
            batch_names = [frames[target['image_id']].path.name for target in targets]
            values = train_step(run, images, targets, device, settings, last=run.batches_done + 1 == n_batches)
            total = sum(values.values())
            if not math.isfinite(total):
                names = distributed.gathered(batch_names)
                shown_losses = ', '.join(f'{key} {value:g}' for key, value in values.items())
                raise UserError(
                    f'The loss is not finite ({shown_losses}) at iteration {run.iteration} with {", ".join(names)}. '
                    f'Look at these pictures and their boxes, or lower lr={settings["lr"]}. The last save is untouched.'
                )
            batch_size = batch_sizes[run.batches_done]  # of all processes together
            run.batches_done += 1
            run.iteration += 1
            n_images += batch_size
            for key, value in (*values.items(), ('loss', total)):
                sums[key] = sums.get(key, 0.0) + value * batch_size
                write_scalar(f'train/{key}', value, run.iteration)
            write_scalar('train/learning_rate', lr, run.iteration)
            memory = peak_memory_gib(device)
            bar.update(
                skipped + n_images,
                loss=f'{sums["loss"] / n_images:.3f}',
                parts=' '.join(f'{k.removeprefix("loss_")} {s / n_images:.2f}' for k, s in sums.items() if k != 'loss'),
                memory='' if memory is None else f'peak {memory:.1f} GiB',
            )
            minutes = minutes_before + (time.monotonic() - started) / 60
            stopped, run.minutes = distributed.highest([stop.requested, minutes], device)
            stop.requested = bool(stopped)
            if stop.requested or (max_minutes and run.minutes >= max_minutes):
                break
            if time.monotonic() - run.saved_at > settings['save_minutes'] * 60:
                run.save()
    if run.batches_done == n_batches:
        run.epoch, run.batches_done = run.epoch + 1, 0
    rate = n_images / max(time.monotonic() - started, 1e-9)
    return {key: value / max(n_images, 1) for key, value in sums.items()}, rate


def train_step(run, images, targets, device, settings, last):
    """Forward, backward and, every `accumulate` batches or at the epoch's `last`, the optimizer's step.

    Returns dict of the losses of the batch (of all processes together) as floats.
    """
    model, optimizer, scaler, accumulate = run.model, run.optimizer, run.scaler, settings['accumulate']
    images = [image.as_subclass(torch.Tensor).to(device, non_blocking=True).float() / 255 for image in images]
    targets = [
        {k: v.as_subclass(torch.Tensor).to(device) if isinstance(v, torch.Tensor) else v for k, v in target.items()}
        for target in targets
    ]
    with half_precision.autocast(device, settings['amp']):
        losses = run.network(images, targets)
    weight = distributed.weight(len(images), device)
    losses = {key: value * weight for key, value in losses.items()}
    values = distributed.means(losses)
    # All processes judge by the same numbers: none is left waiting for another's gradients.
    if math.isfinite(sum(values.values())):
        total = sum(losses.values()) / accumulate + distributed.zero_of(model)
        scaler.scale(total).backward()
        if (run.batches_done + 1) % accumulate == 0 or last:
            scaler.unscale_(optimizer)
            nn.utils.clip_grad_norm_(model.parameters(), settings['clip_norm'])
            scaler.step(optimizer)
            scaler.update()
            optimizer.zero_grad(set_to_none=True)
            run.ema.update(model)
    return values


@contextlib.contextmanager
def out_of_memory_explained(device, settings):
    """Turn running out of GPU memory into a UserError: the numbers, and the variables to change."""
    try:
        yield
    except torch.cuda.OutOfMemoryError:
        held = torch.cuda.max_memory_reserved(device) / 2**30 + CUDA_CONTEXT_GIB
        total = torch.cuda.get_device_properties(device).total_memory / 2**30
        limit = settings['vram_limit_gib'] or total
        raise UserError(
            f'Out of GPU memory: batch_size={settings["batch_size"]} at img_hw={settings["img_hw"]} wants more than '
            f'{limit:.1f} GiB (held {held:.2f}, the card has {total:.1f}). Lower batch_size (accumulate=2 makes up for '
            f'half of it) or img_hw, or raise vram_limit_gib.'
        ) from None
