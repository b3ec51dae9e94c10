"""Frames as samples for training and evaluation."""

import torch
from torch.utils.data import Dataset
from torchvision import tv_tensors

from konohana import masks
from konohana.data.augment import mosaic
from konohana.data.images import load_image
from konohana.errors import UserError


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
        transform: a function of (image, target), see `augment`; or a list of them, of which `stage` chooses one. None
            leaves samples as they are on disk.
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
                f'{len(lacking) - 1} others of {len(frames)}). Take COCO data with masks, such as '
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
        if not self.with_mosaic or torch.rand(()) < 0.5:
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
        """The picture and target of frame `index` as they are on disk or kept, as tv_tensors."""
        frame = self.frames[index]
        image = torch.as_tensor(self.load_picture(frame.path)).permute(2, 0, 1)
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


def collate(samples):
    """List of (image, target) -> (list of images, list of targets), as the detectors take them."""
    images, targets = zip(*samples, strict=True)
    return list(images), list(targets)
