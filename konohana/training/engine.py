"""The training loop: a step, an epoch, a whole run."""

import contextlib
import math
import time

import torch
from torch import nn

from konohana import distributed
from konohana.errors import UserError
from konohana.evaluation.predict import predict_dataset
from konohana.evaluation.summary import evaluate
from konohana.interrupts import StopRequest
from konohana.progress import progress_bar
from konohana.training import half_precision, logs
from konohana.training.data import SMALL, small_size, stage_of
from konohana.training.memory import out_of_memory_explained, peak_memory_gib
from konohana.training.schedule import learning_rate, set_learning_rate


def fit(training, settings):
    """Train to the end of `n_epoch` or `max_minutes`, or until Ctrl-C; evaluate, log and save on the way.

    Args:
        training: a `build.Training`, resumed or fresh. settings: namespace of `_train.py`'s variables.

    Raises:
        UserError: out of GPU memory; see `train_one_epoch`.
    """
    run = training.run
    log_folder = settings.path(settings.log_path) / (settings.run_name or run.net_file.stem)
    with (
        logs.Log(log_folder, run.iteration) as log,
        StopRequest() as stop,
        out_of_memory_explained(training.device, settings),
    ):
        if run.ended is not None:
            # Stopped between the end of an epoch and its evaluation.
            end_epoch(training, settings, log)
        while not run.finished(settings):
            set_stage(training, settings)
            losses, rate = train_one_epoch(run, training.loader, training.device, settings, stop, log.scalar)
            if run.batches_done == 0 or run.finished(settings):
                run.ended = losses
            if run.ended is not None and not stop.requested:
                end_epoch(training, settings, log, f', {rate:.1f} images/s')
            # A request during the evaluation counts too.
            stop.requested = distributed.any_of(stop.requested, training.device)
            if stop.requested:
                run.save()
                later = ' It evaluates this epoch first.' if run.ended is not None else ''
                print(f'Stopped at iteration {run.iteration} and saved. Run the same command again to resume.{later}')
                return
    print(f'Done. Weights: {run.net_file}' + (f', the best on val: {run.best_file}' if run.best >= 0 else ''))
    print(f'Logs and curves.png: {log_folder}')


def set_stage(training, settings):
    """Choose the size and the augmentation of the next epoch's frames, see `stage_of`."""
    model = training.run.model
    stage = stage_of(training.run.part_done(settings), model.resizable, settings)
    training.loader.batch_sampler.stage = stage
    if model.resizable:
        model.transform.set_size(small_size(settings.img_hw) if stage == SMALL else settings.img_hw)


def end_epoch(training, settings, log, note=''):
    """Evaluate an epoch that has ended, if it is due, print and log it, and save.

    Args:
        training, settings: see `fit`. log: a `logs.Log`. note: text to follow the losses.
    """
    run, losses = training.run, training.run.ended
    line = f'{run.position(settings)}: ' + ', '.join(f'{key} {value:.3f}' for key, value in losses.items()) + note
    due = training.val_set.frames and (run.epoch % settings.eval_every == 0 or run.finished(settings))
    metrics = None
    if due and not distributed.rank():
        run.save()  # so that a failed evaluation loses nothing
        metrics = judge(training, settings, log)
        line += f'; {summary(metrics)}'
    print(line)
    n_batches = len(training.loader.batch_sampler.batches())
    log.epoch(run.epoch + run.batches_done / n_batches, run.iteration, losses, metrics)
    run.ended = None
    run.save()


def judge(training, settings, log):
    """Evaluate the averaged weights on val, keep them if they are the best so far, log -> dict of metrics."""
    run, val_set = training.run, training.val_set
    detections = predict_dataset(run.ema.model, val_set, progress=settings.progress)
    run.metrics = evaluate(val_set.frames, detections, val_set.class_names, settings.unlabelled)
    run.save_best(run.metrics['AP'])
    log.metrics(run.metrics, run.iteration)
    log.pictures(val_set, detections, run.iteration)
    return run.metrics


def summary(metrics):
    """An evaluation in a few words."""
    text = f'val AP {metrics["AP"]:.3f}, AP50 {metrics["AP50"]:.3f}, found (AP50) {metrics["AP50_agnostic"]:.3f}'
    return text + (f', mask AP {metrics["mask_AP"]:.3f}' if 'mask_AP' in metrics else '')


class MeanLosses:
    """The mean over images of each loss, and of their sum as `loss`."""

    def __init__(self):
        self.sums, self.n_images = {}, 0

    def add(self, losses, n_images):
        """Count a batch of `n_images`; `losses`: dict of floats, means over them."""
        self.n_images += n_images
        for key, value in losses.items():
            self.sums[key] = self.sums.get(key, 0.0) + value * n_images

    def values(self):
        """Dict of means."""
        return {key: value / max(self.n_images, 1) for key, value in self.sums.items()}


def train_one_epoch(run, loader, device, settings, stop, write_scalar):
    """Train from `run.batches_done` to the end of the epoch, or until a stop is requested or `max_minutes` are over.

    It stops, and saves every `save_minutes`, only where the optimizer has just made a step: gradients that are still
    being accumulated are in no file.

    Args:
        run: a `Run`. device: torch.device.
        loader: DataLoader of (images uint8, targets) over an `EpochBatches` sampler.
        settings: namespace of `lr`, `n_epoch`, `max_minutes`, `warmup_epochs`, `accumulate`, `clip_norm`, `amp`,
            `save_minutes`, `progress`.
        stop: a `StopRequest`; one made to any of several processes counts for all.
        write_scalar: function of (name, value, iteration), for TensorBoard.

    Returns:
        (dict of mean losses over the epoch's part trained here, images a second).

    Raises:
        UserError: a loss that is not finite (the batch's pictures are named); see `train_step`.
    """
    run.network.train()
    run.optimizer.zero_grad(set_to_none=True)
    sampler = loader.batch_sampler
    sampler.epoch, sampler.skip = run.epoch, run.batches_done
    batch_sizes = [len(batch) for batch in sampler.batches()]
    n_batches, skipped = len(batch_sizes), sum(batch_sizes[: run.batches_done])
    means, started, minutes_before = MeanLosses(), time.monotonic(), run.minutes
    with epoch_bar(run, sum(batch_sizes), settings) as bar:
        for images, targets in loader:
            lr = current_learning_rate(run, n_batches, settings)
            set_learning_rate(run.optimizer, lr)
            steps = (run.batches_done + 1) % settings.accumulate == 0 or run.batches_done + 1 == n_batches
            losses = train_step(run, images, targets, device, settings, steps)
            losses['loss'] = sum(losses.values())
            if not math.isfinite(losses['loss']):
                raise not_finite(losses, run, targets, loader.dataset.frames, settings)
            means.add(losses, batch_sizes[run.batches_done])
            run.batches_done += 1
            run.iteration += 1
            for key, value in losses.items():
                write_scalar(f'train/{key}', value, run.iteration)
            write_scalar('train/learning_rate', lr, run.iteration)
            update_bar(bar, skipped + means.n_images, means.values(), device)
            minutes = minutes_before + (time.monotonic() - started) / 60
            stopped, run.minutes = distributed.highest([stop.requested, minutes], device)
            stop.requested = bool(stopped)
            if not steps:
                continue
            if stop.requested or (settings.max_minutes and run.minutes >= settings.max_minutes):
                break
            if time.monotonic() - run.saved_at > settings.save_minutes * 60:
                run.save()
    if run.batches_done == n_batches:
        run.epoch, run.batches_done = run.epoch + 1, 0
    return means.values(), means.n_images / max(time.monotonic() - started, 1e-9)


def current_learning_rate(run, n_batches, settings):
    """The learning rate of the run's next batch; `n_batches`: of an epoch."""
    epochs_done = run.epoch + run.batches_done / n_batches
    time_used = run.minutes / settings.max_minutes if settings.max_minutes else None
    return learning_rate(settings.lr, epochs_done, settings.n_epoch, settings.warmup_epochs, time_used)


def epoch_bar(run, n_images, settings):
    """The progress bar of the run's next epoch."""
    title = f'Epoch {run.epoch + 1}' + ('' if settings.max_minutes else f'/{settings.n_epoch}')
    shown = {'loss': 'loss {formatted_value}', 'parts': '{formatted_value}', 'memory': '{formatted_value}'}
    return progress_bar(title, n_images, settings.progress, 'images', **shown)


def update_bar(bar, done, means, device):
    """Move the bar of `epoch_bar` to `done` images."""
    memory = peak_memory_gib(device)
    bar.update(
        done,
        loss=f'{means["loss"]:.3f}',
        parts=' '.join(f'{key.removeprefix("loss_")} {value:.2f}' for key, value in means.items() if key != 'loss'),
        memory='' if memory is None else f'peak {memory:.1f} GiB',
    )


def not_finite(losses, run, targets, frames, settings):
    """The UserError of a loss that is not finite. With several processes, all must call it."""
    names = distributed.gathered([frames[target['image_id']].path.name for target in targets])
    shown = ', '.join(f'{key} {value:g}' for key, value in losses.items() if key != 'loss')
    return UserError(
        f'The loss is not finite ({shown}) at iteration {run.iteration} with {", ".join(names)}. '
        f'Look at these pictures and their boxes, or lower lr={settings.lr}. The last save is untouched.'
    )


def train_step(run, images, targets, device, settings, step=True):
    """Forward and backward and, with `step`, the optimizer's step on the gradients gathered since the last one.

    Args:
        run: a `Run`. images: uint8 n x 3 x H x W, or a list of 3 x H x W. targets: list of dicts, see
            `detectors.base.Detector`.
        settings: namespace of `accumulate`, `clip_norm` and `amp`.

    Returns:
        dict of the losses of the batch (of all processes together) as floats.

    Raises:
        UserError: a batch norm gets a single value per channel, which has no variance.
    """
    # What a detector draws at random depends on the step alone: a run that was stopped goes on as one that was not.
    torch.manual_seed(hash((run.order.get('seed', 0), run.iteration, distributed.rank())) % 2**63)
    images, targets = floats_on(images, device), targets_on(targets, device)
    with half_precision.autocast(device, settings.amp), single_values_explained(len(images)):
        losses = run.network(images, targets)
    weight = distributed.weight(len(images), device)
    losses = {key: value * weight for key, value in losses.items()}
    values = distributed.means(losses)
    # All processes decide by the same numbers, so none waits for another's gradients.
    if math.isfinite(sum(values.values())):
        total = sum(losses.values()) / settings.accumulate + distributed.zero_of(run.model)
        run.scaler.scale(total).backward()
        if step:
            optimizer_step(run, settings.clip_norm)
    return values


def floats_on(images, device):
    """uint8 n x 3 x H x W, or a list of 3 x H x W -> list of the same as floats 0 to 1 on a device."""
    if isinstance(images, torch.Tensor):
        return list(images.to(device, non_blocking=True).float().div_(255))
    return [image.as_subclass(torch.Tensor).to(device, non_blocking=True).float().div_(255) for image in images]


def targets_on(targets, device):
    """List of dicts of tensors (or numbers) -> the same on a device, each kind of tensor moved there at once."""
    moved = [dict(target) for target in targets]
    for key, value in targets[0].items():
        parts = [target[key] for target in targets]
        if isinstance(value, torch.Tensor):
            parts = [part.as_subclass(torch.Tensor) for part in parts]
            if len({part.shape[1:] for part in parts}) == 1:  # masks of pictures of different sizes are not
                parts = torch.cat(parts).to(device, non_blocking=True).split([len(part) for part in parts])
            for target, part in zip(moved, parts, strict=True):
                target[key] = part.to(device)
    return moved


@contextlib.contextmanager
def single_values_explained(n_images):
    """Turn batch norm's ValueError for a single value per channel, which has no variance, into a UserError."""
    try:
        yield
    except ValueError as error:
        if 'more than 1 value per channel' not in str(error):
            raise
        raise UserError(
            f'Batch norm cannot learn from {n_images} frame at this size: its coarsest map is a single cell. '
            'Raise batch_size (2 at least, for each process) or img_hw, or add frames.'
        ) from None


def optimizer_step(run, clip_norm):
    """Clip the gradients to `clip_norm`, step, and update the averaged weights."""
    run.scaler.unscale_(run.optimizer)
    nn.utils.clip_grad_norm_(run.model.parameters(), clip_norm)
    run.scaler.step(run.optimizer)
    run.scaler.update()
    run.optimizer.zero_grad(set_to_none=True)
    run.ema.update(run.model)
