"""What a detector costs: multiply-adds, and the time a picture takes."""

import time
from functools import partial

import torch
from torch.utils.flop_counter import FlopCounterMode

WARM_UP = 3  # runs that are not counted: caches, memory and cuDNN's choices settle


def count_parameters(model):
    """Number of parameters of a model, frozen ones included."""
    return sum(parameter.numel() for parameter in model.parameters())


@torch.no_grad()
def count_macs(model, img_hw):
    """Multiply-adds of convolutions and matrix products for one picture, by torch.utils.flop_counter.

    Where the detector has `raw_outputs` (its network alone), that is counted, on the batch its `transform` makes of the
    picture; else the whole forward pass. In a two-stage detector (Faster R-CNN) the second stage's share
    depends on how many regions the first proposes, so the picture is noise, always the same.

    Args:
        model: a detector, on any device; it is in evaluation mode meanwhile.
        img_hw: height and width in pixels of the picture, as given to the detector.

    Returns:
        number of multiply-adds, int.
    """
    device = next(model.parameters()).device
    picture = torch.rand(3, *img_hw, generator=torch.Generator().manual_seed(0)).to(device)
    was_training = model.training
    model.eval()
    try:
        with FlopCounterMode(display=False) as counter:
            if model.has_raw_outputs:
                model.raw_outputs(model.transform([picture])[0].tensors)
            else:
                model([picture])
    finally:
        model.train(was_training)
    return counter.get_total_flops() // 2


def take_turns(functions, n_runs, warm_up=WARM_UP):
    """Time functions that take turns: all of them suffer equally from a busy machine.

    Compare medians, or ratios of runs that followed one another (the lists keep the order).

    Args:
        functions: dict of name -> function without arguments, which returns once its work is done (see `wait_for`).
        n_runs: timed runs of each, after `warm_up` more.

    Returns:
        dict of name -> list of n_runs times in seconds.
    """
    times = {name: [] for name in functions}
    for i in range(n_runs + warm_up):
        for name, function in functions.items():
            started = time.perf_counter()
            function()
            if i >= warm_up:
                times[name].append(time.perf_counter() - started)
    return times


def wait_for(device):
    """Wait until a torch.device has done all that it was given: a GPU works while the program goes on."""
    if device.type != 'cpu':
        getattr(torch, device.type).synchronize()


@torch.inference_mode()
def time_models(models, frame, n_runs):
    """Time forward plus post-processing of one picture, of several models that take turns, see `take_turns`.

    Args:
        models: dict of name -> detector in evaluation mode, or any function of a list of pictures.
        frame: float 3 x H x W RGB in 0 to 1, on the models' device. n_runs: timed runs of each.

    Returns:
        dict of name -> list of n_runs times in seconds.
    """

    def detect(model):
        model([frame])
        wait_for(frame.device)

    return take_turns({name: partial(detect, model) for name, model in models.items()}, n_runs)
