"""Frames that are decoded once and kept as bytes."""

import itertools
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np
import torch

from konohana import masks
from konohana.data.images import load_image, resize
from konohana.progress import progress_bar


def kept_size(frame, img_hw, largest):
    """(height, width) at which a `Sample` is kept: its own, or what it has in a window at the largest scale if less.

    Args:
        img_hw: (height, width) of the window, which upright pictures may turn. largest: scale of which 1 just fits.
    """
    short, long = sorted(img_hw)
    fit = max(min(hw[0] / frame.height, hw[1] / frame.width) for hw in ((short, long), (long, short)))
    scale = min(1.0, fit * max(1.0, largest))
    return max(1, round(frame.height * scale)), max(1, round(frame.width * scale))


def size_of_all(frames, img_hw, largest):
    """Bytes that `Kept` takes."""
    return 3 * sum(int(np.prod(kept_size(frame, img_hw, largest))) for frame in frames)


class Kept:
    """Frames' pixels, decoded, as small as the largest that training shows of them, in one block of memory.

    `kept(path)` gives a frame's picture, uint8 H x W x 3, RGB, which is not to be changed. Processes that load frames
    share the block.

    Args:
        frames: list of `Sample`. img_hw, largest: see `kept_size`. progress: show a progress bar.

    Attributes:
        frames: list of `Sample` like those given, with boxes, regions and masks of the size that is kept.
    """

    def __init__(self, frames, img_hw, largest, progress=True):
        sizes = [kept_size(frame, img_hw, largest) for frame in frames]
        starts = [0, *itertools.accumulate(3 * height * width for height, width in sizes)]
        self.block = torch.empty(starts[-1], dtype=torch.uint8)
        self.places = {frame.path: (start, hw) for frame, start, hw in zip(frames, starts, sizes, strict=False)}
        with ThreadPoolExecutor() as pool, progress_bar('Keeping frames in memory', len(frames), progress) as bar:
            for done, _ in enumerate(pool.map(self._load, frames), start=1):
                bar.update(done)
        self.frames = [resized(frame, hw) for frame, hw in zip(frames, sizes, strict=True)]

    def _load(self, frame):
        # Each is written as soon as it is decoded: whoever waits holds no second copy of all.
        _, hw = self.places[frame.path]
        self(frame.path).copy_(torch.from_numpy(resize(load_image(frame.path), hw)))

    def move(self, device):
        """Keep them on a torch.device from now on."""
        self.block = self.block.to(device)

    def __call__(self, path):
        start, (height, width) = self.places[path]
        return self.block[start : start + 3 * height * width].view(height, width, 3)


def resized(frame, hw):
    """A `Sample` whose picture has another size now, `hw` (height, width), and all that it holds with it."""
    if hw == (frame.height, frame.width):
        return frame
    ratio = np.float32([hw[1] / frame.width, hw[0] / frame.height] * 2)

    def smaller(rles):
        return rles and [
            rle and masks.encode(masks.resize(masks.decode([rle], (frame.height, frame.width)), hw))[0] for rle in rles
        ]

    return replace(
        frame,
        height=hw[0],
        width=hw[1],
        boxes=frame.boxes * ratio,
        ignored=frame.ignored * ratio,
        masks=smaller(frame.masks),
        ignored_masks=smaller(frame.ignored_masks),
    )
