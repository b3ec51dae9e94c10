"""Batches whose pixels are changed where the network trains, from frames that are kept there.

The processes of the loader draw what happens to a sample and its target, which are a few numbers and outlines. What is
left to do is done for the whole batch on the GPU, which is asked for nothing, so that it never waits.
"""

import copy

import torch
from torch.utils.data import Dataset


class Plans(Dataset):
    """What happens to the samples of `Frames` instead of their pictures: `plans[key]` is (`Plan`, target)."""

    def __init__(self, frames):
        # The pictures stay in this process.
        self.frames = copy.copy(frames)
        self.frames.load_picture, self.frames.paste = None, copy.copy(frames.paste)
        if self.frames.paste:
            self.frames.paste.load_picture = None

    def __len__(self):
        return len(self.frames)

    def __getitem__(self, key):
        return self.frames.plan(key)


def pasted_in(plans):
    """List of `Plan` -> list of what is pasted into their frames, `paste.Pasted`."""
    return [pasted for plan in plans for part in plan.parts for pasted in part.pasted or ()]


def collate_plans(samples):
    """List of (`Plan`, target) -> list of `Plan`, all outlines of what they paste in a row, list of targets."""
    plans, targets = zip(*samples, strict=True)
    outlines = [torch.from_numpy(pasted.alpha).flatten() for pasted in pasted_in(plans)]
    return list(plans), torch.cat([torch.empty(0, dtype=torch.uint8), *outlines]), list(targets)


class OnDevice:
    """A loader of batches of (images, targets); the images, uint8 n x 3 x H x W or a list of 3 x H x W, on a device.

    Args:
        loader: DataLoader of the `Plans` of `frames`. frames: `Frames`, whose pictures are on the device.
        device: torch.device.
    """

    def __init__(self, loader, frames, device):
        self.loader, self.dataset, self.device = loader, frames, device
        self.batch_sampler = loader.batch_sampler

    def __iter__(self):
        for plans, outlines, targets in self.loader:
            pasted = pasted_in(plans)
            shapes = [one.alpha.shape for one in pasted]
            parts = outlines.to(self.device, non_blocking=True).split([height * width for height, width in shapes])
            for one, part, shape in zip(pasted, parts, shapes, strict=True):
                one.alpha = part.view(shape)
            yield self.dataset.pictures(plans), targets
