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

from konohana import checkpoint
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


def make_optimizer(model, lr, weight_decay):
    """AdamW (Loshchilov and Hutter 2019, 1711.05101); no decay of norms, biases and other vectors."""
    parameters = [p for p in model.parameters() if p.requires_grad]
    groups = [
        {'params': [p for p in parameters if p.ndim > 1], 'weight_decay': weight_decay},
        {'params': [p for p in parameters if p.ndim <= 1], 'weight_decay': 0.0},
    ]
    return torch.optim.AdamW(groups, lr=lr)


def learning_rate(lr, epochs_done, n_epoch, warmup_epochs):
    """Linear warm-up to `lr`, then a cosine to a hundredth of it (Loshchilov and Hutter 2017, 1608.03983).

    It is a function of the position alone (`epochs_done` counts parts of epochs), so resuming needs no state.
    """
    if epochs_done < warmup_epochs:
        return lr * max(epochs_done / warmup_epochs, 0.001)
    part = min(1.0, (epochs_done - warmup_epochs) / max(n_epoch - warmup_epochs, 1e-9))
    return lr * (0.01 + 0.99 * (1 + math.cos(math.pi * part)) / 2)


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


class Run:
    """Everything of a training run that must survive an interruption, and its files.

    `net.pt` holds the averaged weights for testing, `optim.pt` all that is needed to go on, `iter.txt` the number of
    iterations to read at a glance, `net_best.pt` the weights that were best on val. (With Res2: `net_det3.pt` ...)

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
        self.description, self.order = description, order
        self.epoch = self.batches_done = self.iteration = 0  # batches_done counts within the epoch
        self.best, self.figures = -1.0, {}
        self.saved_at = time.monotonic()

    def weights(self):
        """The content of a weights file."""
        return {'model': self.ema.model.state_dict(), **self.description, 'epoch': self.epoch, 'figures': self.figures}

    def save(self):
        """Write all files. `optim.pt` comes first and is complete in itself, so a kill between files is harmless."""
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
            'best': self.best,
            'figures': self.figures,
            'order': self.order,
            'description': self.description,
        }
        checkpoint.save(state, self.optim_file)
        checkpoint.save(self.weights(), self.net_file)
        checkpoint.write_text(self.iter_file, f'{self.iteration}\n')
        self.saved_at = time.monotonic()

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
        for key in ('detector', 'options', 'class_names'):
            old, new = state['description'][key], self.description[key]
            if old != new:
                raise UserError(
                    f'{self.optim_file}: it is of a run with {key}={old}, now it is {new}. Move {self.net_file.name} '
                    f'and {self.optim_file.name} away to start afresh (init_from=<net.pt> keeps what fits).'
                )
        self.model.load_state_dict(state['model'])
        self.ema.model.load_state_dict(state['ema'])
        self.ema.updates = state['ema_updates']
        self.optimizer.load_state_dict(state['optimizer'])
        self.scaler.load_state_dict(state['scaler'])
        torch.set_rng_state(state['random'])
        self.epoch, self.iteration = state['epoch'], state['iteration']
        self.best, self.figures = state['best'], state['figures']
        # With another batch size, seed or data the order is another: then the epoch begins anew.
        self.batches_done = state['batches_done'] if state['order'] == self.order else 0
        return f'Resuming at epoch {self.epoch + 1}, iteration {self.iteration}.'


def train_one_epoch(run, loader, device, settings, stop, write_scalar):
    """Train from `run.batches_done` to the end of the epoch, or until a stop is requested.

    Args:
        run: a `Run`. device: torch.device.
        loader: DataLoader of (images uint8, targets) over an `EpochBatches` sampler.
        settings: dict of `lr`, `n_epoch`, `warmup_epochs`, `accumulate`, `clip_norm`, `amp`, `save_minutes`,
            `progress`.
        stop: a `StopRequest`. write_scalar: function of (name, value, iteration), for TensorBoard.

    Returns:
        (dict of mean losses over the epoch's part trained here, images a second).

    Raises:
        UserError: a loss that is not finite; the batch's pictures are named.
    """
    model, optimizer = run.model, run.optimizer
    frames = loader.dataset.frames
    model.train()
    sampler = loader.batch_sampler
    sampler.epoch, sampler.skip = run.epoch, run.batches_done
    batch_sizes = [len(batch) for batch in sampler.batches()]
    n_batches, skipped = len(batch_sizes), sum(batch_sizes[: run.batches_done])
    sums, n_images, started = {}, 0, time.monotonic()
    optimizer.zero_grad(set_to_none=True)
    title = f'Epoch {run.epoch + 1}/{settings["n_epoch"]}'
    shown = {'loss': 'loss {formatted_value}', 'parts': '{formatted_value}', 'memory': '{formatted_value}'}
    with progress_bar(title, sum(batch_sizes), settings['progress'], 'images', **shown) as bar:
        for images, targets in loader:
            epochs_done = run.epoch + run.batches_done / n_batches
            lr = learning_rate(settings['lr'], epochs_done, settings['n_epoch'], settings['warmup_epochs'])
            for group in optimizer.param_groups:
                group['lr'] = lr
            names = [frames[target['image_id']].path.name for target in targets]
            losses = train_step(run, images, targets, device, settings, last=run.batches_done + 1 == n_batches)
            values = {key: value.item() for key, value in losses.items()}
            total = sum(values.values())
            if not math.isfinite(total):
                shown_losses = ', '.join(f'{key} {value:g}' for key, value in values.items())
                raise UserError(
                    f'The loss is not finite ({shown_losses}) at iteration {run.iteration} with {", ".join(names)}. '
                    f'Look at these pictures and their boxes, or lower lr={settings["lr"]}. The last save is untouched.'
                )
            run.batches_done += 1
            run.iteration += 1
            n_images += len(images)
            for key, value in (*values.items(), ('loss', total)):
                sums[key] = sums.get(key, 0.0) + value * len(images)
                write_scalar(f'train/{key}', value, run.iteration)
            write_scalar('train/learning_rate', lr, run.iteration)
            memory = peak_memory_gib(device)
            bar.update(
                skipped + n_images,
                loss=f'{sums["loss"] / n_images:.3f}',
                parts=' '.join(f'{k.removeprefix("loss_")} {s / n_images:.2f}' for k, s in sums.items() if k != 'loss'),
                memory='' if memory is None else f'peak {memory:.1f} GiB',
            )
            if stop.requested:
                break
            if time.monotonic() - run.saved_at > settings['save_minutes'] * 60:
                run.save()
    if run.batches_done == n_batches:
        run.epoch, run.batches_done = run.epoch + 1, 0
    rate = n_images / max(time.monotonic() - started, 1e-9)
    return {key: value / max(n_images, 1) for key, value in sums.items()}, rate


def train_step(run, images, targets, device, settings, last):
    """Forward, backward and, every `accumulate` batches or at the epoch's `last`, the optimizer's step -> losses."""
    model, optimizer, scaler, accumulate = run.model, run.optimizer, run.scaler, settings['accumulate']
    images = [image.as_subclass(torch.Tensor).to(device, non_blocking=True).float() / 255 for image in images]
    targets = [
        {k: v.as_subclass(torch.Tensor).to(device) if isinstance(v, torch.Tensor) else v for k, v in target.items()}
        for target in targets
    ]
    with torch.autocast(device.type, dtype=torch.float16, enabled=settings['amp'] and device.type == 'cuda'):
        losses = model(images, targets)
    total = sum(losses.values())
    if torch.isfinite(total):
        scaler.scale(total / accumulate).backward()
        if (run.batches_done + 1) % accumulate == 0 or last:
            scaler.unscale_(optimizer)
            nn.utils.clip_grad_norm_(model.parameters(), settings['clip_norm'])
            scaler.step(optimizer)
            scaler.update()
            optimizer.zero_grad(set_to_none=True)
            run.ema.update(model)
    return losses


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
