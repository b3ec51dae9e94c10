"""What a run takes from its data where its variables leave that open: the shape of its frames, and a recipe for few."""

import numpy as np

from konohana.data.sampler import upright

USUAL_HW = (360, 640)
NEAR = 0.05  # how far from the usual ratio of the sides frames still are of the usual shape
MIXED = 0.02  # from this share of frames of the other orientation on, these get batches of their own
STEP = 8  # pixels; sides are multiples of it
LONGEST = 10.0  # ratio of the sides from which more would leave too little height


def shape_of(frames):
    """The size at which to train on pictures of any shape, and whether upright ones are grouped.

    The size has as many pixels as `USUAL_HW`, in the pictures' median ratio of long to short side, upright where most
    pictures are. So 16:9 gives `USUAL_HW` itself.

    Args:
        frames: list of `Sample`, at least one.

    Returns:
        ((height, width) in pixels, bool).
    """
    sides = np.array([(frame.height, frame.width) for frame in frames], float).clip(1)
    ratio = float(np.median(sides.max(axis=1) / sides.min(axis=1)))
    usual_ratio = USUAL_HW[1] / USUAL_HW[0]
    short, long = USUAL_HW
    if abs(ratio / usual_ratio - 1) > NEAR:
        area, ratio = short * long, min(ratio, LONGEST)
        short, long = (STEP * round(side / STEP) for side in ((area / ratio) ** 0.5, (area * ratio) ** 0.5))
    share = float(np.mean(upright(frames)))
    return (long, short) if share > 0.5 else (short, long), MIXED <= share <= 1 - MIXED


def choose_shape(settings, frames, begun=None):
    """Fill in `img_hw` and `group_by_aspect` where the settings leave them open, and print what was chosen.

    Args:
        settings: namespace of `_train.py`'s variables, changed in place. frames: list of `Sample` to train on.
        begun: content of the `optim.pt` of the run that is resumed, whose choice is kept; None for a new run.
    """
    if settings.img_hw and settings.group_by_aspect is not None:
        return
    img_hw, grouped = shape_of(frames)
    if begun:
        order = begun['order'] if isinstance(begun['order'], dict) else {}
        img_hw, grouped = tuple(begun['description']['img_hw']), bool(order.get('group_by_aspect', False))
    settings.img_hw = settings.img_hw or img_hw
    settings.group_by_aspect = grouped if settings.group_by_aspect is None else settings.group_by_aspect
    if (settings.img_hw, settings.group_by_aspect) != (USUAL_HW, False):
        height, width = settings.img_hw
        groups = '; upright and wide ones get batches of their own' if settings.group_by_aspect else ''
        print(f'These pictures are learned at {width} x {height}{groups} (img_hw, group_by_aspect).')
