"""The parts of a training run: optimizer, schedule, average of weights, checkpoints, one epoch."""

import math
import time

import torch
from torch import nn

from konohana import distributed
from konohana.errors import UserError
from konohana.progress import progress_bar
from konohana.training import half_precision
from konohana.training.memory import peak_memory_gib
from konohana.training.schedule import learning_rate


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
