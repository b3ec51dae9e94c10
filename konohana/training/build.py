"""From a script's variables to a run that can begin: device, data, network, optimizer, weights to start from."""

import math
from dataclasses import dataclass

import torch
from torch.utils.data import DataLoader

from konohana import checkpoint, detectors, distributed, inference
from konohana.data.dataset import Frames
from konohana.errors import UserError, count
from konohana.training import half_precision
from konohana.training.choices import choose
from konohana.training.data import make_loader, read_training_frames
from konohana.training.memory import cap_gpu_memory
from konohana.training.run import Run, begun, is_finished
from konohana.training.schedule import Ema, make_optimizer
from konohana.training.teachers import read_teachers

FEW_STEPS = 1000  # with fewer, a training from scratch or from published weights has only begun
ENOUGH_STEPS = 2000  # the shipped weights had 2300


@dataclass
class Training:
    """All that `engine.fit` needs.

    Attributes:
        run: the `Run`. loader: its batches, see `make_loader`. val_set: `Frames` to evaluate on, possibly none.
        device: torch.device to train on.
    """

    run: Run
    loader: DataLoader
    val_set: Frames
    device: torch.device


def prepare(settings):
    """Set the seed, join torchrun's other processes and cap the GPU memory; returns the torch.device to train on.

    Raises:
        UserError: there is no such detector or device, or it does not support the settings.
    """
    detectors.options_of(settings.detector, vars(settings))
    torch.manual_seed(settings.seed)
    device = distributed.start(inference.pick_device(settings.device))
    cap_gpu_memory(device, settings.vram_limit_gib)
    return device


def build(settings, device):
    """Read the data and build the network, optimizer and averaged weights.

    Args:
        settings: namespace of `_train.py`'s variables. device: torch.device.

    Returns:
        `Training`.

    Raises:
        UserError: see `read_training_frames`, `detectors.build` and `make_loader`.
    """
    options = detectors.options_of(settings.detector, vars(settings))
    for name, value in detectors.idle_options(settings.detector, vars(settings)).items():
        print(f'{name}={value!r} is not used: detector={settings.detector!r} has no such option.')
    folder = folder_of(settings)
    before = begun(folder, settings.use_res2block)
    if settings.init_from and not before:
        checkpoint.load(settings.path(settings.init_from))  # a mistake is said before the data are read
    frames = read_training_frames(settings)
    if options.get('second_look') and before and before['description']['detector'] == settings.detector:
        if not before['description']['options'].get('second_look'):
            print('This run began without a second look and goes on without one.')
            options['second_look'] = False
    choose(settings, frames.train, before)
    model = detectors.build(settings.detector, len(frames.class_names), settings.img_hw, **options)
    if model.looks_again:
        model.second_look.set_names(frames.class_names)
    if settings.only_second_look:
        learn_only_second_look(model, settings)
    if settings.unlabelled == 'ignore':
        model.ignore_unlabelled()
    loader = make_loader(settings, frames, model.wants_masks, device)
    model = model.to(device, memory_format=torch.channels_last)
    if settings.amp:
        half_precision.quicken_depthwise(model)
    ema = Ema(model, settings.ema_decay)
    if settings.teachers:
        learn_from(model, settings, frames.class_names, device)
    starts_trained = settings.init_from or settings.pretrained
    optimizer = make_optimizer(
        model, settings.lr, settings.weight_decay, settings.backbone_lr if starts_trained else 1.0
    )
    scaler = torch.amp.GradScaler(device.type, enabled=settings.amp and device.type == 'cuda')
    description = {
        'detector': settings.detector,
        'options': options,
        'class_names': frames.class_names,
        'img_hw': list(settings.img_hw),
    }
    order = {
        'seed': settings.seed,
        'batch_size': settings.batch_size,
        'frames': len(loader.dataset),
        'group_by_aspect': settings.group_by_aspect,
        'few_frames': settings.few_frames,
    }
    run = Run(folder, model, ema, optimizer, scaler, description, order, settings.use_res2block)
    print(
        f'{count(len(frames.train), "frame")} to train on, {len(frames.val)} to evaluate on, '
        f'{count(len(frames.class_names), "class", "classes")}: '
        f'{", ".join(frames.class_names)}. Training {settings.detector} on {device}.'
    )
    return Training(run, loader, Frames(frames.val, frames.class_names), device)


def folder_of(settings):
    """The folder of a run's weights."""
    if settings.run_name:
        return settings.path(settings.log_path) / settings.run_name
    return settings.path(settings.checkpoint_path)


def learn_only_second_look(model, settings):
    """See `Konohana.learn_only_second_look`; UserError where that makes no sense."""
    if settings.detector != 'konohana':
        raise UserError(f'only_second_look=True: detector={settings.detector!r} has none.')
    if not settings.init_from:
        raise UserError("only_second_look=True: the rest stays as init_from has it, so name it, like 'weights/net.pt'.")
    model.learn_only_second_look()


def learn_from(model, settings, class_names, device):
    """Let the model learn from `teachers` too; UserError where that makes no sense, see `read_teachers`."""
    if settings.detector != 'konohana':
        raise UserError(f'teachers={settings.teachers}: detector={settings.detector!r} cannot learn from others.')
    if '' in settings.teachers:
        raise UserError(f"teachers={settings.teachers}: name weights files, like teachers=['large.pt'].")
    if settings.only_second_look:
        raise UserError(f'teachers={settings.teachers}: they have no say in the second look alone.')
    model.teachers = read_teachers([settings.path(path) for path in settings.teachers], class_names, device)
    print(f'Learning from {", ".join(settings.teachers)} too.')


def resume(training, settings):
    """Resume an earlier run, or start from the weights that the settings name; prints which.

    Returns:
        whether there is anything left to train or to evaluate.

    Raises:
        UserError: see `Run.resume` and `start_weights`.
    """
    run = training.run
    message = run.resume(len(training.loader.batch_sampler.batches()))
    if message:
        print(message)
    if run.iteration:
        say_what_stays(run.optimizer, settings)
    if run.iteration == 0 and (settings.init_from or settings.pretrained):
        with distributed.first_rank_first():
            print(start_weights(run, settings))
        run.ema.model.load_state_dict(run.model.state_dict())
    advise_epochs(training, settings)
    if not is_finished(vars(run), settings):
        return True
    more = f'{run.epoch} epochs already. Raise n_epoch'
    if settings.max_minutes:
        more = f'{run.minutes:.1f} minutes already. Raise max_minutes'
    print(f'{run.net_file} has its {more}, or delete it to start afresh.')
    return False


def say_what_stays(optimizer, settings):
    """Print a line for each variable of the optimizer that was another when the resumed run began."""
    decay = max(group['weight_decay'] for group in optimizer.param_groups)
    factor = min(group['lr_factor'] for group in optimizer.param_groups)
    kept = {'weight_decay': decay}
    if (settings.init_from or settings.pretrained) and not settings.only_second_look:
        kept['backbone_lr'] = factor
    for name, value in kept.items():
        if value != getattr(settings, name):
            print(f'{name}={getattr(settings, name)}: this run began with {value:g} and goes on with that.')


def advise_epochs(training, settings):
    """Print a line if a run from scratch has too few frames or epochs to learn much."""
    if settings.init_from or settings.max_minutes or training.run.iteration:
        return
    n_batches = len(training.loader.batch_sampler.batches())
    steps = n_batches * settings.n_epoch // settings.accumulate
    if steps < FEW_STEPS:
        enough = math.ceil(ENOUGH_STEPS * settings.accumulate / n_batches)
        print(
            f'n_epoch={settings.n_epoch} makes only {steps} steps with so few frames; n_epoch={enough} makes '
            f'{ENOUGH_STEPS}.'
        )


def start_weights(run, settings):
    """Start from published weights (`pretrained`) or those of a file (`init_from`); returns what was done, as a line.

    Raises:
        UserError: nothing is published for this detector; see `initialise`.
    """
    if not settings.pretrained:
        return initialise(run.model, settings.path(settings.init_from), run.description)
    return run.model.load_pretrained(settings.pretrained)


def initialise(model, path, description):
    """Start from the weights in a file, as far as they fit.

    Args:
        model: the new detector, changed in place. path: the weights file.
        description: dict of `detector`, `options` and `class_names` of `model`.

    Returns:
        what was done, as one line of text.

    Raises:
        UserError: see `checkpoint.load`; none of the weights fit.
    """
    content = checkpoint.load(path)
    same_classes = content['class_names'] == description['class_names']
    skipped = () if same_classes else model.class_layers
    left = checkpoint.fit_weights(model, content['model'], skip=skipped)
    if len(left) == len(model.state_dict()):
        raise UserError(
            f'{path}: none of its weights fit; they are of detector={content["detector"]!r}, and you train '
            f'{description["detector"]!r}.'
        )
    text = f'Starting from {path}.'
    if not same_classes:
        text += f' Its classes were {", ".join(content["class_names"])}, so the class layer starts from scratch.'
    for name, value in description['options'].items():
        before = content.get('options', {}).get(name, value)
        if before != value:
            text += f' Its {name} was {before!r}, here it is {value!r}.'
    text += model.start_rest(left)
    if left:
        text += f' Not taken from it: {", ".join(left[:8])}{" ..." if len(left) > 8 else ""}.'
    return text
