"""What a run takes from its data where its variables leave that open: the shape of frames, and more epochs for few."""

import math

import numpy as np

from konohana.data.sampler import upright

USUAL_HW = (360, 640)
NEAR = 0.05  # how far from the usual ratio of the sides frames still are of the usual shape
MIXED = 0.02  # from this share of frames of the other orientation on, these get batches of their own
STEP = 8  # pixels; sides are multiples of it
LONGEST = 10.0  # ratio of the sides from which more would leave too little height

USUAL_EPOCHS = 22
STEPS = 320  # of a run on few frames, which the usual epochs do not make: some ten minutes on two cores
EVALUATIONS = 8  # of a run on few frames: its epochs are short


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


def choose(settings, frames, begun=None):
    """Fill in what the settings leave to the data, and print what was chosen.

    Args:
        settings: namespace of `_train.py`'s variables, changed in place. frames: list of `Sample` to train on.
        begun: content of the `optim.pt` of the run that is resumed, whose choices are kept; None for a new run.
    """
    order = {} if begun is None or not isinstance(begun['order'], dict) else begun['order']
    if not settings.img_hw or settings.group_by_aspect is None:
        shape = shape_of(frames)
        if begun:
            shape = tuple(begun['description']['img_hw']), bool(order.get('group_by_aspect', False))
        choose_shape(settings, *shape)
    n_batches = math.ceil(len(frames) / settings.batch_size)
    few = bool(order.get('few_frames', False)) if begun else has_few(settings, n_batches)
    settings.few_frames = settings.few_frames and few
    if settings.few_frames:
        choose_recipe(settings, n_batches)


def choose_shape(settings, img_hw, grouped):
    """Fill in `img_hw` and `group_by_aspect` where they are left open; print them where they are not the usual ones."""
    settings.img_hw = settings.img_hw or img_hw
    settings.group_by_aspect = grouped if settings.group_by_aspect is None else settings.group_by_aspect
    if (settings.img_hw, settings.group_by_aspect) != (USUAL_HW, False):
        height, width = settings.img_hw
        groups = '; upright and wide ones get batches of their own' if settings.group_by_aspect else ''
        print(f'These pictures are learned at {width} x {height}{groups} (img_hw, group_by_aspect).')


def has_few(settings, n_batches):
    """Whether a new run has few frames: the usual number of epochs, of `n_batches` each, makes less than `STEPS` steps.

    It also starts from trained weights (`init_from`), and `few_frames` allows for it.
    """
    whole = settings.init_from and not settings.only_second_look
    return settings.few_frames and bool(whole) and USUAL_EPOCHS * n_batches < STEPS * settings.accumulate


def choose_recipe(settings, n_batches):
    """Fill in and print what few frames need; what differs from its usual value stays as it is."""
    epochs = settings.n_epoch
    if epochs == USUAL_EPOCHS:
        epochs = math.ceil(STEPS * settings.accumulate / n_batches)
    recipe = {'n_epoch': (USUAL_EPOCHS, epochs), 'eval_every': (2, math.ceil(epochs / EVALUATIONS))}
    chosen = {name: few for name, (usual, few) in recipe.items() if getattr(settings, name) == usual}
    if settings.max_minutes:
        chosen.pop('n_epoch', None)
    if not settings.val_split:
        chosen.pop('eval_every', None)
    for name, value in chosen.items():
        setattr(settings, name, value)
    if chosen:
        shown = ', '.join(f'{name}={value}' for name, value in chosen.items())
        print(f'For so few frames: {shown} (few_frames=False: the usual values).')
