"""The data of a run: frames to train and evaluate on, class names, stages of augmentation, batches."""

import math
from dataclasses import dataclass

from torch.utils.data import DataLoader

from konohana import distributed
from konohana.data.augment import training_transform
from konohana.data.dataset import Frames, collate
from konohana.data.images import load_image
from konohana.data.kept import Kept, size_of_all
from konohana.data.on_device import OnDevice, Plans, collate_plans
from konohana.data.paste import Paste
from konohana.data.reading import class_names_of, read_frames, report, unknown_names
from konohana.data.sampler import EpochBatches, repeat_rare_frames, upright
from konohana.errors import UserError, count
from konohana.interrupts import ignore_interrupts
from konohana.training.memory import free_gpu_memory, free_ram, out_of_memory_explained

# Of GPU memory, that a step of the default network takes for a pixel of its batch: benchmarks/training_memory.py says
# 416 with the second look, and cuDNN and gaps come on top. Of other networks it is not known.
STEP_BYTES = 480

# The stages of a run. A detector that is not resizable starts with the second.
SMALL, LARGE, NO_AUGMENT = range(3)


@dataclass
class TrainingFrames:
    """The frames of a run: lists of `Sample`, all of whose names are in `class_names`."""

    train: list
    val: list
    class_names: list


def read_training_frames(settings):
    """Read the splits to train and evaluate on, and the second dataset if there is one.

    Prints every problem of the data.

    Args:
        settings: namespace of `_train.py`'s variables.

    Returns:
        `TrainingFrames`.

    Raises:
        UserError: there are problems and `skip_bad_files` is False; a split without frames, data without class names.
    """
    root = settings.path(settings.konohana_dataset_path)
    splits = [split for split in (settings.train_split, settings.val_split) if split]
    (train, *rest), problems = read_frames(root, splits, settings.ignore_class, settings.progress)
    val = rest[0] if rest else []
    class_names = class_names_of(root, train, settings.ignore_class)
    if settings.extra_dataset_path:
        extra_root = settings.path(settings.extra_dataset_path)
        (extra,), more = read_frames(extra_root, [settings.train_split], settings.ignore_class, settings.progress)
        more_names = class_names_of(extra_root, extra, settings.ignore_class)
        class_names += [name for name in more_names if name not in class_names]
        train, problems = train + extra, problems + more
    report(problems + unknown_names(train + val, class_names), settings.skip_bad_files)
    known = set(class_names)
    train, val = ([frame for frame in frames if set(frame.names) <= known] for frames in (train, val))
    for split, frames in zip(splits, (train, val), strict=False):
        if not frames:
            raise UserError(f'{root}: no usable frame in split {split!r}.')
    if not class_names:
        raise UserError(f'{root}: no frame of split {settings.train_split!r} has a labelled character. Label some.')
    return TrainingFrames(train, val, class_names)


def small_size(img_hw):
    """Two thirds of (height, width), in multiples of 16 and at least 32 pixels: the size of the first stage."""
    return tuple(max(32, round(side / 24) * 16) for side in img_hw)


def stage_transforms(settings):
    """The transforms of the three stages: small frames, frames of `img_hw`, frames of `img_hw` without augmentation.

    The last one still flips.
    """

    def plain(hw, flip=0):
        return training_transform(hw, flip, None, False, 0, turn=settings.group_by_aspect)

    def augmented(hw):
        return training_transform(
            hw,
            settings.flip,
            settings.scale,
            settings.shift,
            settings.colour,
            settings.hue,
            settings.random_erasing,
            settings.trivial_augment,
            turn=settings.group_by_aspect,
        )

    stage = augmented if settings.augment else plain
    small, large = stage(small_size(settings.img_hw)), stage(settings.img_hw)
    return [small, large, plain(settings.img_hw, settings.flip if settings.augment else 0)]


def stage_of(part_done, resizable, settings):
    """The stage of a run of which `part_done` (0 to 1) is over: SMALL, LARGE or NO_AUGMENT."""
    if resizable and part_done < settings.small_part:
        return SMALL
    return LARGE if part_done < 1 - settings.no_augment_part else NO_AUGMENT


def choose_keeping(settings, frames, device):
    """Where frames are kept, and set `settings.keep_frames` to it: 'gpu', 'ram' or 'no'.

    Left open, it is 'gpu' with CUDA if they fit beside a step of the default network, or else 'ram' if they take at
    most half of what is free, or else 'no'.

    Args:
        settings: namespace of `_train.py`'s variables. frames: list of `Sample` to train on. device: torch.device.

    Raises:
        UserError: they do not fit where they are to be kept.
    """
    choice, needed = settings.keep_frames, size_of_all(frames, settings.img_hw, largest_scale(settings))
    if choice == 'no':
        return
    if choice == 'gpu' and device.type == 'cpu':
        raise UserError("keep_frames='gpu': training runs on the CPU. Take 'ram' or 'no'.")
    there = {'ram': free_ram() // distributed.world_size()}
    if device.type == 'cuda':
        there['gpu'] = free_gpu_memory(device, settings.vram_limit_gib)
    if not choice:
        step = settings.batch_size // distributed.world_size() * math.prod(settings.img_hw) * STEP_BYTES
        fits_gpu = settings.detector == 'konohana' and needed + step <= there.get('gpu', 0)
        settings.keep_frames = 'gpu' if fits_gpu else 'ram' if needed <= there['ram'] / 2 else 'no'
    elif needed > min(there[place] for place in {'ram', choice} & set(there)):  # they get to the GPU by way of RAM
        free = ' and '.join(f'{size / 1e9:.2f} GB ({place})' for place, size in there.items())
        raise UserError(
            f'keep_frames={choice!r}: the {len(frames)} frames take {needed / 1e9:.2f} GB, and there are {free}. Take '
            "keep_frames='no', which reads them when they are needed, or lower img_hw."
        )
    if settings.keep_frames != 'no':
        kept = count(len(frames), 'frame is', 'frames are')
        print(f'{kept} kept in memory, {needed / 1e9:.2f} GB (keep_frames={settings.keep_frames!r}).')


def largest_scale(settings):
    """The largest scale at which training shows a frame."""
    return settings.scale[1] if settings.augment else 1.0


def make_loader(settings, frames, with_masks, device):
    """A loader of batches of (images uint8, targets) in the order of an `EpochBatches` sampler.

    Args:
        settings: namespace of `_train.py`'s variables. frames: `TrainingFrames`.
        with_masks: whether the detector learns masks. device: torch.device to train on.

    Returns:
        DataLoader, or `OnDevice` where frames are kept on the device.

    Raises:
        UserError: see `Frames`, `EpochBatches` and `choose_keeping`.
    """
    train, load_picture = frames.train, load_image
    choose_keeping(settings, train, device)
    if settings.keep_frames != 'no':
        load_picture = Kept(train, settings.img_hw, largest_scale(settings), settings.progress)
        train = load_picture.frames
    shown = repeat_rare_frames(train, settings.repeat_rare)
    pasting = None
    if settings.paste and settings.augment:
        pasting = Paste(train, frames.class_names, settings.paste, settings.progress, load_picture)
        print(f'{count(len(pasting.cut_outs), "character")} can be cut out of their frames and pasted into others.')
    with_mosaic = settings.mosaic and settings.augment
    transforms = stage_transforms(settings)
    dataset = Frames(
        shown, frames.class_names, transforms, with_mosaic, settings.seed, with_masks, pasting, load_picture
    )
    groups = upright(shown) if settings.group_by_aspect else None
    on_device = settings.keep_frames == 'gpu'
    loader = DataLoader(
        Plans(dataset) if on_device else dataset,
        batch_sampler=EpochBatches(len(dataset), settings.batch_size, settings.seed, groups),
        num_workers=settings.num_workers,
        collate_fn=collate_plans if on_device else collate,
        pin_memory=device.type == 'cuda',
        persistent_workers=settings.num_workers > 0,
        worker_init_fn=ignore_interrupts,
    )
    if not on_device:
        return loader
    with out_of_memory_explained(device, settings):
        load_picture.move(device)
    return OnDevice(loader, dataset, device)
