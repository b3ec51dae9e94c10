"""Frames as samples for training and evaluation, and the order in which training sees them."""

from pathlib import Path

import torch
from torch.utils.data import Dataset, Sampler
from torchvision import tv_tensors

from konohana import distributed, masks
from konohana.data import coco, toy, voc
from konohana.data.augment import mosaic
from konohana.images import load_image
from konohana.settings import UserError

TOY_SHOW = 'toy_show'  # a dataset folder of this name is drawn when it is not there
TOY_SHOW_COCO = 'toy_show_coco'  # the same show as COCO instances, with masks
TOY_FRAMES = {'train': 400, 'val': 40}


def read_frames(path, splits, ignore_class, progress=True):
    """The frames of several splits of a dataset, and all that is wrong with them.

    Args:
        path: dataset folder, of Pascal VOC or COCO as its content says; one named `toy_show` (boxes) or
            `toy_show_coco` (boxes and masks) is drawn if it lacks the split.
        splits: names of splits.
        ignore_class: name of boxes that mark regions not to be counted.

    Returns:
        (list of lists of `voc.Frame`, one for each split, without the frames that have problems; list of problems).

    Raises:
        UserError: see `voc.find_split` and `coco.read_split`.
    """
    path = Path(path)
    with distributed.first_rank_first():
        if path.name == TOY_SHOW:
            # A list that is there may be the user's own, and write_voc would write it anew.
            lacking = [s for s in TOY_FRAMES if s in splits and not (path / 'sets' / f'{s}.txt').is_file()]
            counts = {f'n_{s}': TOY_FRAMES[s] if s in lacking else 0 for s in TOY_FRAMES}
            toy.write_voc(path, **counts, progress=progress)
        if path.name == TOY_SHOW_COCO:
            lists = {s: path / f'annotations/instances_{s}.json' for s in splits}
            lacking = [s for s in TOY_FRAMES if s in splits and not lists[s].is_file()]
            counts = {f'n_{s}': TOY_FRAMES[s] if s in lacking else 0 for s in TOY_FRAMES}
            toy.write_coco(path, **counts, progress=progress)
    kind = coco if coco.is_coco(path) else voc
    # Splits that are not there are known at once, before thousands of pictures are checked.
    for split in splits:
        kind.find_split(path, split)
    frames, problems = [], []
    for split in splits:
        found, wrong = kind.read_split(path, split, ignore_class, progress)
        frames.append(found)
        problems.extend(wrong)
    return frames, problems


def report(problems, skip):
    """Print all problems; raise UserError unless they are to be skipped (or there are none)."""
    if not problems:
        return
    for problem in problems:
        print(f'Problem: {problem}')
    count = f'{len(problems)} problem{"s" * (len(problems) > 1)} in the data, listed above.'
    if not skip:
        raise UserError(f'{count} Mend them, or go on without these files by skip_bad_files=True.')
    print(f'{count} Going on without these files.')


def class_names_of(path, frames):
    """Class names of a dataset, in the order of their labels.

    The lines of its classes.txt if there is one; else COCO's categories in the order of their ids; else the names in
    `frames`, sorted.
    """
    listed = Path(path) / 'classes.txt'
    if not listed.is_file():
        listed_names = {name: None for frame in frames for name in frame.categories or ()}
        return list(listed_names) or sorted({name for frame in frames for name in frame.names})
    try:
        lines = listed.read_text(encoding='utf-8-sig').splitlines()
    except UnicodeDecodeError:
        raise UserError(f'{listed}: not UTF-8 text. Save it as UTF-8.') from None
    names = [line.strip() for line in lines if line.strip()]
    if len(set(names)) != len(names):
        raise UserError(f'{listed}: a name stands there twice.')
    return names


def unknown_names(frames, class_names):
    """One line for each name in `frames` that `class_names` lacks, naming the first file that has it."""
    first, count = {}, {}
    for frame in frames:
        for name in frame.names:
            if name not in class_names:
                first.setdefault(name, frame.path)
                count[name] = count.get(name, 0) + 1
    return [
        f'{path}: the name {name!r} ({count[name]} boxes) is none of the classes learned ({", ".join(class_names)}). '
        'Correct the label, or label it in the train split too, or list it in classes.txt.'
        for name, path in first.items()
    ]


def repeat_rare_frames(frames, share):
    """Frames with the rare repeated: LVIS's repeat factor sampling (Gupta et al. 2019, 1908.03195), up to twice.

    Args:
        frames: list of `voc.Frame`. share: names that fewer than this share of the frames hold are rare, 0 to 1.

    Returns:
        the list, followed by frames that hold a rare name: sqrt(share / that name's share) - 1 of them, at most all.
    """
    held = [set(frame.names) for frame in frames]
    counts = {name: sum(name in names for names in held) for name in set().union(*held)}
    more = {name: min(1.0, max(0.0, (share * len(frames) / count) ** 0.5 - 1)) for name, count in counts.items()}
    repeated, due = [], 0.0
    for frame, names in zip(frames, held, strict=True):
        # Adding up the fractions spreads the repeated frames evenly over the episodes.
        due += max((more[name] for name in names), default=0.0)
        if due >= 1.0 and any(more[name] for name in names):
            repeated.append(frame)
            due -= 1.0
    return frames + repeated


class Frames(Dataset):
    """Frames as samples of torchvision's detection contract.

    Args:
        frames: list of `voc.Frame`; `class_names`: every name in them must be in this list.
        transform: None, or a function of (image, target), see `augment`; or a list of them, of which a sample's key
            names one.
        mosaic_hw: None, or (height, width): half of the samples are then mosaics of four, of this size (or turned, as
            `transform` turns the first of the four).
        seed: of the augmentation. A sample depends on (seed, epoch, index) alone, whatever process loads it and
            whatever was loaded before: so a resumed run sees what the uninterrupted one would have seen.
        paste: None, or what pastes characters of other frames into a picture first, see `paste.Paste`.
        with_masks: whether targets have `masks` too (uint8 n x H x W of 0 and 1, in the order of the boxes). They are
            kept encoded and decoded anew for each sample, since those of a whole data set would fill the memory.

    Raises:
        UserError: masks are asked for, but there are objects that have none.

    `dataset[epoch, index, stage]` (stage: which transform; or `dataset[epoch, index]`, stage 0; or `dataset[index]`,
    epoch 0) -> (uint8 3 x H x W RGB, target with `boxes`, `labels`
    (1 is the first name), `ignored` and `image_id`, the index).
    """

    def __init__(self, frames, class_names, transform=None, mosaic_hw=None, seed=0, with_masks=False, paste=None):
        lacking = [frame for frame in frames if not frame.has_masks] if with_masks else []
        if lacking:
            raise UserError(
                f'{lacking[0].path}: this detector learns masks, but there are none for this picture (nor for '
                f'{len(lacking) - 1} others of {len(frames)}). Take COCO data with masks, such as '
                f'konohana_dataset_path={TOY_SHOW_COCO}, or a detector that learns boxes.'
            )
        self.frames, self.class_names = frames, list(class_names)
        self.label_of = {name: i for i, name in enumerate(self.class_names, start=1)}
        self.transforms = transform if isinstance(transform, list) else [transform] if transform else []
        self.mosaic_hw, self.seed, self.with_masks, self.paste = mosaic_hw, seed, with_masks, paste

    def __len__(self):
        return len(self.frames)

    def __getitem__(self, key):
        epoch, index, *stage = key if isinstance(key, tuple) else (0, key)
        if not self.transforms:
            image, target = self.load(index)
        else:
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(hash((self.seed, epoch, index)) % 2**63)
                image, target = self.augmented(index, self.transforms[stage[0] if stage else 0])
        target['image_id'] = index
        return image, target

    def augmented(self, index, transform):
        """A sample as the transform leaves it, or a mosaic of four such."""
        if self.mosaic_hw is None or torch.rand(()) < 0.5:
            return transform(*self.pasted(index))
        others = torch.randint(len(self), (3,)).tolist()
        samples = [transform(*self.pasted(i)) for i in (index, *others)]
        # As large as the first, so that the pictures of a batch stay of one shape where it is theirs.
        return mosaic(samples, tuple(samples[0][0].shape[-2:]))

    def pasted(self, index):
        """The picture and target of frame `index` before `transform`."""
        image, target = self.load(index)
        return self.paste(image, target) if self.paste else (image, target)

    def load(self, index):
        """The picture and target of frame `index` as they are on disk, as tv_tensors."""
        frame = self.frames[index]
        image = torch.from_numpy(load_image(frame.path)).permute(2, 0, 1)
        size = tuple(image.shape[-2:])
        boxes, ignored = (
            tv_tensors.BoundingBoxes(torch.from_numpy(b.copy()), format='XYXY', canvas_size=size)
            for b in (frame.boxes, frame.ignored)
        )
        labels = torch.tensor([self.label_of[name] for name in frame.names], dtype=torch.int64)
        target = {'boxes': boxes, 'labels': labels, 'ignored': ignored}
        if self.with_masks:
            target['masks'] = tv_tensors.Mask(masks.decode(frame.masks or [], size))
        return tv_tensors.Image(image), target


class EpochBatches(Sampler):
    """Batches of keys (epoch, index) in an order that depends on the seed and the epoch alone.

    `epoch`, `stage` (see `Frames`) and `skip` (batches already done in this epoch) are set before each pass. The last
    batch may be smaller,
    unless it would hold a single frame, on which batch norm learns nothing: that one joins the batch before.

    Where several processes train together (see `distributed`), `batches` lists the batches of all, and each process
    iterates over its share of them. A last batch with less than a frame for each joins the batch before as well.

    Args:
        n: number of frames. batch_size: frames in a batch, of all processes together.
        groups: None, or what group each frame is in, a list of n values: then a batch holds frames of one group, as in
            torchvision's references (`upright` groups by aspect ratio). Only what is left over of a group too small
            for a batch of its own joins another's.

    Raises:
        UserError: fewer frames, or frames in a batch, than there are processes.
    """

    def __init__(self, n, batch_size, seed=0, groups=None):
        self.n, self.batch_size, self.seed = n, batch_size, seed
        self.groups = [0] * n if groups is None else list(groups)
        self.epoch = self.skip = self.stage = 0
        if min(n, batch_size) < distributed.n_ranks():
            raise UserError(
                f'{n} frames in batches of batch_size={batch_size} cannot be shared by {distributed.n_ranks()} '
                'processes: each needs a frame of every batch.'
            )

    def batches(self):
        generator = torch.Generator().manual_seed(hash((self.seed, self.epoch)) % 2**63)
        order = torch.randperm(self.n, generator=generator).tolist()
        smallest = max(2, distributed.n_ranks())
        batches, left = [], []
        for group in sorted(set(self.groups)):
            members = [index for index in order if self.groups[index] == group]
            own = [members[i : i + self.batch_size] for i in range(0, len(members), self.batch_size)]
            if len(own[-1]) < smallest:
                (own[-2] if len(own) > 1 else left).extend(own.pop())
            batches += own
        if len(left) >= smallest or not batches:
            batches.append(left)
        else:
            batches[-1].extend(left)
        if len(set(self.groups)) > 1:
            batches = [batches[i] for i in torch.randperm(len(batches), generator=generator).tolist()]
        return batches

    def __iter__(self):
        for batch in self.batches()[self.skip :]:
            yield [(self.epoch, index, self.stage) for index in distributed.share(batch)]

    def __len__(self):
        return len(self.batches()) - self.skip


def upright(frames):
    """`voc.Frame`s -> list of bool: the picture is higher than wide. The groups of aspect-ratio grouped batches."""
    return [bool(frame.height > frame.width) for frame in frames]


def collate(samples):
    """List of (image, target) -> (list of images, list of targets), as the detectors take them."""
    images, targets = zip(*samples, strict=True)
    return list(images), list(targets)
