"""Frames as samples for training and evaluation."""

from dataclasses import dataclass

import torch
from torch.utils.data import Dataset
from torchvision import tv_tensors

from konohana import masks
from konohana.data.augment import Mosaic
from konohana.data.images import load_image
from konohana.data.step import boxes_of
from konohana.errors import UserError


@dataclass
class OneFrame:
    """What was drawn for a frame: the stage of augmentation, what is pasted into it, what changes then, its last size.

    None for nothing, see `step.Step`.
    """

    index: int
    stage: int
    pasted: object
    changed: object
    hw: tuple


@dataclass
class Plan:
    """What was drawn for a sample: one `OneFrame`, or four and the places of a `Mosaic`."""

    parts: list
    mosaic: list | None = None


class Frames(Dataset):
    """Frames as samples of torchvision's detection contract.

    `dataset[epoch, index, stage]`, or `dataset[epoch, index]` (stage 0), or `dataset[index]` (epoch 0), gives

    - a picture, uint8 3 x H x W RGB
    - its target: `boxes` (n x 4), `labels` (n, int64; 1 is the first class), `ignored` (m x 4 regions that are neither
      learned nor counted), `image_id` (the index) and, with masks, `masks` (uint8 n x H x W of 0 and 1)

    A sample depends on (seed, epoch, index) alone, whatever process loads it and whatever was loaded before. So a
    resumed run sees what the uninterrupted one would have seen.

    Args:
        frames: list of `Sample`.
        class_names: list of names; it has every name of the frames.
        transform: a `Step` of augmentation, see `augment`; or a list of them, of which `stage` chooses one. None leaves
            samples as they are on disk.
        with_mosaic: make half of the samples mosaics of four, of the size that `transform` gives the first of the four.
        seed: of the augmentation.
        with_masks: give targets masks. They are kept encoded and decoded for each sample: those of a whole dataset
            would fill the memory.
        paste: a `paste.Paste`, which pastes characters of other frames into a picture before `transform`.
        load_picture: function of a frame's path that gives its picture, uint8 H x W x 3, an array or a tensor.

    Raises:
        UserError: an object has no mask, and masks are asked for.
    """

    def __init__(
        self,
        frames,
        class_names,
        transform=None,
        with_mosaic=False,
        seed=0,
        with_masks=False,
        paste=None,
        load_picture=load_image,
    ):
        lacking = [frame for frame in frames if not frame.has_masks] if with_masks else []
        if lacking:
            raise UserError(
                f'{lacking[0].path}: this detector learns masks, but there are none for this picture (nor for '
                f'{len(lacking) - 1} others of {len(frames)}). Take data with masks, such as '
                'konohana_dataset_path=toy_show_coco, or a detector that learns boxes.'
            )
        self.frames, self.class_names = frames, list(class_names)
        self.label_of = {name: i for i, name in enumerate(self.class_names, start=1)}
        self.transforms = transform if isinstance(transform, list) else [transform] if transform else []
        self.with_mosaic, self.seed, self.with_masks, self.paste = with_mosaic, seed, with_masks, paste
        self.load_picture = load_picture

    def __len__(self):
        return len(self.frames)

    def __getitem__(self, key):
        if not self.transforms:
            index = key[1] if isinstance(key, tuple) else key
            return tv_tensors.Image(self.picture(index)), {**self.target(index), 'image_id': index}
        plan, target = self.plan(key)
        (image,) = self.pictures([plan])
        return tv_tensors.Image(image), target

    def plan(self, key):
        """What happens to a sample, without its pixels -> (`Plan`, target)."""
        epoch, index, *stage = key if isinstance(key, tuple) else (0, key)
        with torch.random.fork_rng(devices=[]):
            # The generator itself: torch.manual_seed goes to all kinds of GPU too, in a third of a sample's time.
            torch.default_generator.manual_seed(hash((self.seed, epoch, index)) % 2**63)
            four = self.with_mosaic and torch.rand(()) >= 0.5
            others = torch.randint(len(self), (3,)).tolist() if four else []
            parts, targets = zip(*(self._drawn(i, *stage) for i in (index, *others)), strict=True)
            # As large as the first, so that the pictures of a batch stay of one shape where it is theirs.
            mosaic, target = Mosaic().draw(targets, parts[0].hw) if four else (None, targets[0])
        return Plan(list(parts), mosaic), {**target, 'image_id': index}

    def _drawn(self, index, stage=0):
        """(`OneFrame`, target) of frame `index` at a stage."""
        pasted, target = self.paste.draw(self.target(index)) if self.paste else (None, self.target(index))
        changed, target = self.transforms[stage].draw(target)
        return OneFrame(index, stage, pasted, changed, tuple(target['boxes'].canvas_size)), target

    def pictures(self, plans):
        """List of `Plan` -> list of their pictures, uint8 3 x H x W, where the pictures that are loaded are.

        Those of one size are changed together.
        """
        parts = [part for plan in plans for part in plan.parts]
        done = [None] * len(parts)
        for kind in {(part.stage, part.hw) for part in parts}:
            alike = [i for i, part in enumerate(parts) if (part.stage, part.hw) == kind]
            for i, picture in zip(alike, self._changed([parts[i] for i in alike]), strict=True):
                done[i] = picture
        done = iter(done)
        pictures = [[next(done) for _ in plan.parts] for plan in plans]
        return [
            Mosaic().apply(of_plan, plan.mosaic) if plan.mosaic else of_plan[0]
            for of_plan, plan in zip(pictures, plans, strict=True)
        ]

    def _changed(self, parts):
        """List of `OneFrame` of one stage and size -> their pictures."""
        images = [self.picture(part.index) for part in parts]
        pasted = [part.pasted for part in parts]
        if any(pasted):
            images = self.paste.apply(images, pasted)
        return self.transforms[parts[0].stage].apply(images, [part.changed for part in parts])

    def picture(self, index):
        """The picture of frame `index` as it is on disk or kept, uint8 3 x H x W."""
        return torch.as_tensor(self.load_picture(self.frames[index].path)).permute(2, 0, 1)

    def target(self, index):
        """The target of frame `index` as it is on disk or kept."""
        frame = self.frames[index]
        hw = (frame.height, frame.width)
        boxes, ignored = (boxes_of(torch.from_numpy(boxes.copy()), hw) for boxes in (frame.boxes, frame.ignored))
        labels = torch.tensor([self.label_of[name] for name in frame.names], dtype=torch.int64)
        target = {'boxes': boxes, 'labels': labels, 'ignored': ignored}
        if self.with_masks:
            target['masks'] = tv_tensors.Mask(masks.decode(frame.masks or [], hw))
        return target


def collate(samples):
    """List of (image, target) -> (n x 3 x H x W, or a list of images where they differ in size; list of targets)."""
    images, targets = zip(*samples, strict=True)
    if len({image.shape for image in images}) == 1:
        return torch.stack([image.as_subclass(torch.Tensor) for image in images]), list(targets)
    return list(images), list(targets)
