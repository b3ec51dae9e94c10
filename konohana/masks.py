"""Masks of objects in run-length encoding (RLE), as COCO stores them: a few hundred bytes for a mask of any size.

An RLE is a dict of `size` (height, width) and `counts`: lengths of runs of 0s and 1s in turn, down the columns, as the
bytes of pycocotools' C library ("compressed") or as a list of ints ("uncompressed").
"""

import sys

import cv2
import numpy as np
from pycocotools import mask as coco_mask

from konohana.boxes import as_array, fits, reaches_beyond


def encode(masks):
    """Masks -> list of n compressed RLEs, byte for byte those of pycocotools, but several times as fast.

    Args:
        masks: n x H x W, or n x 1 x H x W; torch tensor of any device or numpy array; bool, uint8 (0 is outside), or
            floats (0.5 and more is inside).
    """
    on_device = hasattr(masks, 'is_cuda') and masks.is_cuda
    masks = masks if on_device else as_array(masks)
    if masks.ndim == 4:
        masks = masks[:, 0]
    masks = masks >= (0.5 if 'float' in str(masks.dtype) else 1)
    height, width = masks.shape[-2:]
    runs = _runs_on_device(masks) if on_device else map(_runs, masks.astype(np.uint8))
    uncompressed = [{'size': [height, width], 'counts': counts.tolist()} for counts in runs]
    return coco_mask.frPyObjects(uncompressed, height, width) if uncompressed else []


def _runs(mask):
    """Lengths of the runs of one uint8 mask, column by column; reads only the columns between the mask's edges."""
    height, width = mask.shape
    x, _, w, _ = cv2.boundingRect(mask)
    if w == 0:
        return np.array([height * width])
    pixels = cv2.transpose(mask[:, x : x + w]).ravel()
    ends = np.flatnonzero(pixels[1:] != pixels[:-1]) + (1 + x * height)
    start = [x * height] if pixels[0] else []
    stop = [(x + w) * height] if pixels[-1] and x + w < width else []
    return np.diff(np.concatenate([[0], start, ends, stop, [height * width]]).astype(np.int64))


def _runs_on_device(masks):
    """`_runs` for all masks at once on their device, so that only the ends of the runs are copied from it."""
    import torch  # where it is used: who only reads labels needs no PyTorch

    n, height, width = masks.shape
    pixels = masks.transpose(1, 2).reshape(n, -1)
    before = torch.nn.functional.pad(pixels[:, :-1], (1, 0))
    which, where = (value.cpu().numpy() for value in (pixels != before).nonzero(as_tuple=True))
    for ends in np.split(where, np.searchsorted(which, np.arange(1, n))):
        yield np.diff(ends, prepend=0, append=height * width)


def decode(rles, hw):
    """List of n compressed RLEs of pictures of `hw` (height, width) -> uint8 tensor n x H x W of 0 and 1."""
    import torch

    if not rles:
        return torch.zeros((0, *hw), dtype=torch.uint8)
    # pycocotools gives H x W x n in Fortran's order: seen from behind it is n x W x H without a copy.
    return torch.from_numpy(coco_mask.decode(rles).transpose(2, 1, 0)).transpose(1, 2).contiguous()


def area(rles):
    """List of n compressed RLEs -> n areas in pixels."""
    return [int(value) for value in coco_mask.area(rles)] if rles else []


def bounding_box(rle):
    """Compressed RLE -> (x1, y1, x2, y2) in pixels, x2 and y2 exclusive."""
    x, y, w, h = coco_mask.toBbox(rle).tolist()
    return x, y, x + w, y + h


def resize(masks, hw):
    """Masks as a tensor n x H x W, uint8 -> the same at `hw` (height, width), each pixel from the nearest centre.

    Everything that resizes masks with their picture uses this. Plain 'nearest', torchvision's choice for a `Mask`,
    shifts them by up to half a pixel.
    """
    import torch
    from torchvision.transforms.v2 import functional as TF

    masks = masks.as_subclass(torch.Tensor)
    return TF.resize(masks, list(hw), interpolation=TF.InterpolationMode.NEAREST_EXACT)


def box_mask(box, hw):
    """The mask of all pixels of a box (x1, y1, x2, y2), compressed."""
    x1, y1, x2, y2 = (float(value) for value in box)
    # pycocotools takes a list for a polygon, an array for boxes.
    return coco_mask.frPyObjects(np.array([[x1, y1, x2 - x1, y2 - y1]]), *hw)[0]


def is_number(value):
    """Whether a value from a JSON file is a finite number; an int may have hundreds of digits."""
    return type(value) in (int, float) and abs(value) <= sys.float_info.max


def from_segmentation(segmentation, hw):
    """The value of `segmentation` in a COCO file -> compressed RLE. Polygons are cut at the picture's edge.

    Args:
        segmentation: list of polygons [x1, y1, x2, y2, ...], whose union is the mask; or an RLE of either form.
        hw: (height, width) of the picture.

    Raises:
        ValueError: it is neither, or does not fit the picture; the text says what is wrong. Without this check
            pycocotools accesses memory out of bounds for some such input.
    """
    height, width = hw
    if isinstance(segmentation, dict):
        size, counts = segmentation.get('size'), segmentation.get('counts')
        if not isinstance(size, (list, tuple)) or list(size) != [height, width]:
            raise ValueError(f'its RLE is of size {str(size)[:40]}, the picture of [{height}, {width}] (height, width)')
        if isinstance(counts, (str, bytes)):
            counts = _uncompressed(counts)
        _check_counts(counts, height * width)
        return coco_mask.frPyObjects({'size': [height, width], 'counts': list(counts)}, height, width)
    if not isinstance(segmentation, list) or not segmentation:
        raise ValueError('it is neither a list of polygons nor a RLE')
    for polygon in segmentation:
        if not isinstance(polygon, list) or len(polygon) < 6 or len(polygon) % 2:
            raise ValueError('a polygon is a list of at least three points: [x1, y1, x2, y2, x3, y3, ...]')
        if not all(map(is_number, polygon)):
            raise ValueError('a polygon is not made of finite numbers')
    xs, ys = ([value for polygon in segmentation for value in polygon[i::2]] for i in (0, 1))
    around = min(xs), min(ys), max(xs), max(ys)
    if reaches_beyond(around, hw):
        cut = [cut_at_edges(list(zip(polygon[::2], polygon[1::2], strict=True)), hw) for polygon in segmentation]
        segmentation = [[value for point in points for value in point] for points in cut if len(points) > 2]
        if not segmentation or not fits(around, hw):
            raise ValueError(f'it is more than half outside the picture of {width} x {height}')
    polygons = coco_mask.frPyObjects(segmentation, height, width)
    return polygons[0] if len(polygons) == 1 else coco_mask.merge(polygons)


def cut_at_edges(points, hw):
    """A polygon [(x, y), ...] without what lies beyond the picture of `hw`; [] where all of it does.

    Sutherland and Hodgman's way: edge after edge of the picture, each crossing becomes a corner.
    """
    height, width = hw
    for axis, edge, inwards in ((0, 0, 1), (0, width, -1), (1, 0, 1), (1, height, -1)):
        kept = []
        for before, after in zip(points[-1:] + points[:-1], points, strict=True):
            was, now = ((point[axis] - edge) * inwards for point in (before, after))
            if was < 0 < now or now < 0 < was:
                part = was / (was - now)
                crossing = [a + part * (b - a) for a, b in zip(before, after, strict=True)]
                crossing[axis] = edge
                kept.append(tuple(crossing))
            if now >= 0:
                kept.append(tuple(after))
        points = kept
    return points


def to_polygon(rle):
    """Compressed RLE -> [x1, y1, x2, y2, ...]: one polygon along the pixels' edges, which holds the same pixels.

    Seams of no width join holes and further parts to it, as in ultralytics' `merge_multi_segment`, so that tools with
    one polygon per object lose none of them. An empty mask gives [].
    """
    loops = _outlines(decode([rle], rle['size'])[0].numpy())
    if not loops:
        return []
    loops.sort(key=len, reverse=True)
    joined = loops[0]
    for loop in loops[1:]:
        distance = np.abs(joined[:, None] - loop).sum(axis=-1)
        here, there = np.unravel_index(distance.argmin(), distance.shape)
        seam = [joined[: here + 1], loop[there:], loop[: there + 1], joined[here:]]
        joined = np.concatenate(seam)
    return joined.ravel().tolist()


def _outlines(mask):
    """uint8 H x W -> list of closed outlines along pixels' edges, int n x 2 (x, y), holes the other way round."""
    padded = np.pad(mask.astype(np.int8), 1)
    across, down = np.diff(padded, axis=0)[:, 1:-1], np.diff(padded, axis=1)[1:-1]
    follows = {}
    # The mask is on the right hand: its upper edges run to the right, its right edges down, and so on.
    for edges, sign, start, stop in (
        (across, 1, (0, 0), (1, 0)), (across, -1, (1, 0), (0, 0)),
        (down, 1, (0, 1), (0, 0)), (down, -1, (0, 0), (0, 1)),
    ):  # fmt: skip
        for y, x in zip(*(axis.tolist() for axis in np.nonzero(edges == sign)), strict=True):
            follows.setdefault((x + start[0], y + start[1]), []).append((x + stop[0], y + stop[1]))
    loops = []
    while follows:
        first = point = next(iter(follows))
        loop, step = [], None
        while True:
            point_after = follows[point].pop()
            if not follows[point]:
                del follows[point]
            turn = point_after[0] - point[0], point_after[1] - point[1]
            if turn != step:
                loop.append(point)
            point, step = point_after, turn
            if point == first:
                break
        loops.append(np.array(loop))
    return loops


def _check_counts(counts, n_pixels):
    if not isinstance(counts, list) or not all(type(value) is int and value >= 0 for value in counts):
        raise ValueError("its RLE's counts are not whole numbers from 0 on")
    if sum(counts) != n_pixels:
        raise ValueError(f"its RLE's counts sum up to {str(sum(counts))[:20]}, but the picture has {n_pixels} pixels")


def _uncompressed(counts):
    """The runs in a compressed RLE's `counts`: pycocotools' rleFrString, but with checks.

    Each character, from '0' on, holds six bits: five of a number, the lowest first, and one that says whether more
    follow. From the fourth number on, a number is the difference from the one two before it.
    """
    try:
        codes = np.frombuffer(counts.encode('ascii') if isinstance(counts, str) else counts, np.uint8).astype(np.int64)
    except UnicodeEncodeError:
        codes = np.array([-1])
    codes = codes - 48
    last = (codes & 32) == 0
    ends = np.flatnonzero(last)
    starts = np.concatenate([[0], ends[:-1] + 1])
    damaged = ValueError("its compressed RLE's counts are damaged")
    if len(codes) == 0 or codes.min() < 0 or codes.max() > 63 or not last[-1] or (ends - starts).max() > 6:
        raise damaged
    place = 5 * (np.arange(len(codes)) - np.repeat(starts, ends - starts + 1))
    numbers = np.add.reduceat((codes & 31) << place, starts)
    numbers -= np.where(codes[ends] & 16, 1 << (place[ends] + 5), 0)
    numbers[1::2] = np.cumsum(numbers[1::2])
    numbers[2::2] = np.cumsum(numbers[2::2])
    return numbers.tolist()
