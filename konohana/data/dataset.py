"""Frames as samples for training and evaluation, and the order in which training sees them."""

from pathlib import Path

import torch
from torch.utils.data import Dataset, Sampler
from torchvision import tv_tensors

from konohana.data import toy, voc
from konohana.data.augment import mosaic
from konohana.images import load_image
from konohana.settings import UserError

TOY_SHOW = 'toy_show'  # a dataset folder of this name is drawn when it is not there
TOY_FRAMES = {'train': 400, 'val': 40}


def read_frames(path, splits, ignore_class, progress=True):
    """The frames of several splits of a dataset, and all that is wrong with them.

    Args:
        path: dataset folder; one named `toy_show` is drawn if it lacks the split.
        splits: names of splits.
        ignore_class: name of boxes that mark regions not to be counted.

    Returns:
        (list of lists of `voc.Frame`, one for each split, without the frames that have problems; list of problems).

    Raises:
        UserError: see `voc.find_split`.
    """
    path = Path(path)
    if path.name == TOY_SHOW:
        # A list that is there may be the user's own, and write_voc would write it anew.
        lacking = [s for s in TOY_FRAMES if s in splits and not (path / 'sets' / f'{s}.txt').is_file()]
        toy.write_voc(path, **{f'n_{s}': TOY_FRAMES[s] if s in lacking else 0 for s in TOY_FRAMES}, progress=progress)
    # Splits that are not there are known at once, before thousands of pictures are checked.
    for split in splits:
        voc.find_split(path, split)
    frames, problems = [], []
    for split in splits:
        found, wrong = voc.read_split(path, split, ignore_class, progress)
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
    """Class names of a dataset: the lines of its classes.txt if there is one, else the names in `frames`, sorted."""
    listed = Path(path) / 'classes.txt'
    if not listed.is_file():
        return sorted({name for frame in frames for name in frame.names})
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


class Frames(Dataset):
    """Frames as samples of torchvision's detection contract.

    Args:
        frames: list of `voc.Frame`; `class_names`: every name in them must be in this list.
        transform: None, or a function of (image, target), see `augment`.
        mosaic_hw: None, or (height, width): half of the samples are then mosaics of four.
        seed: of the augmentation. A sample depends on (seed, epoch, index) alone, whatever process loads it and
            whatever was loaded before: so a resumed run sees what the uninterrupted one would have seen.

    `dataset[epoch, index]` (or `dataset[index]`, epoch 0) -> (uint8 3 x H x W RGB, target with `boxes`, `labels`
    (1 is the first name), `ignored` and `image_id`, the index).
    """

    def __init__(self, frames, class_names, transform=None, mosaic_hw=None, seed=0):
        self.frames, self.class_names = frames, list(class_names)
        self.label_of = {name: i for i, name in enumerate(self.class_names, start=1)}
        self.transform, self.mosaic_hw, self.seed = transform, mosaic_hw, seed

    def __len__(self):
        return len(self.frames)

    def __getitem__(self, key):
        epoch, index = key if isinstance(key, tuple) else (0, key)
        if self.transform is None:
            image, target = self.load(index)
        else:
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(hash((self.seed, epoch, index)) % 2**63)
                image, target = self.augmented(index)
        target['image_id'] = index
        return image, target

    def augmented(self, index):
        """A sample as the transform leaves it, or a mosaic of four such."""
        if self.mosaic_hw is None or torch.rand(()) < 0.5:
            return self.transform(*self.load(index))
        others = torch.randint(len(self), (3,)).tolist()
        return mosaic([self.transform(*self.load(i)) for i in (index, *others)], self.mosaic_hw)

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
        return tv_tensors.Image(image), {'boxes': boxes, 'labels': labels, 'ignored': ignored}


class EpochBatches(Sampler):
    """Batches of keys (epoch, index) in an order that depends on the seed and the epoch alone.

    `epoch` and `skip` (batches already done in this epoch) are set before each pass. The last batch may be smaller,
    unless it would hold a single frame, on which batch norm learns nothing: that one joins the batch before.
    """

    def __init__(self, n, batch_size, seed=0):
        self.n, self.batch_size, self.seed = n, batch_size, seed
        self.epoch = self.skip = 0

    def batches(self):
        generator = torch.Generator().manual_seed(hash((self.seed, self.epoch)) % 2**63)
        order = torch.randperm(self.n, generator=generator).tolist()
        batches = [order[i : i + self.batch_size] for i in range(0, self.n, self.batch_size)]
        if len(batches) > 1 and len(batches[-1]) == 1:
            batches[-2:] = [batches[-2] + batches[-1]]
        return batches

    def __iter__(self):
        for batch in self.batches()[self.skip :]:
            yield [(self.epoch, index) for index in batch]

    def __len__(self):
        return len(self.batches()) - self.skip


def collate(samples):
    """List of (image, target) -> (list of images, list of targets), as the detectors take them."""
    images, targets = zip(*samples, strict=True)
    return list(images), list(targets)
