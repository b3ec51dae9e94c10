"""Optimizer, learning rate, and the moving average of weights."""

import copy
import math

import torch


class Ema:
    """Exponential moving average of a model's weights and buffers, used for testing (Polyak averaging).

    The decay starts low and rises to `decay`, min(decay, (1 + n) / (10 + n)) after n updates, so that the average of a
    short run is not made of its first weights. `ema.model` is the averaged model, in evaluation mode.
    """

    def __init__(self, model, decay=0.998):
        self.model = copy.deepcopy(model).eval().requires_grad_(False)
        self.decay, self.updates = decay, 0

    @torch.no_grad()
    def update(self, model):
        self.updates += 1
        decay = min(self.decay, (1 + self.updates) / (10 + self.updates))
        averaged, current = self.model.state_dict(), model.state_dict()
        floats = [key for key, value in averaged.items() if value.is_floating_point()]
        torch._foreach_lerp_([averaged[k] for k in floats], [current[k] for k in floats], 1 - decay)
        for key in averaged.keys() - set(floats):
            averaged[key].copy_(current[key])


def make_optimizer(model, lr, weight_decay, backbone_lr=1.0):
    """AdamW (Loshchilov and Hutter 2019, 1711.05101); no decay of norms, biases and other vectors.

    The parameters of `model.backbone` learn at `backbone_lr` times the rate: each group's `lr_factor` says so.
    """
    groups = [
        {'params': [], 'weight_decay': decay, 'lr_factor': factor}
        for factor in (backbone_lr, 1.0)
        for decay in (weight_decay, 0.0)
    ]
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            groups[2 * (not name.startswith('backbone.')) + (parameter.ndim <= 1)]['params'].append(parameter)
    groups = [group for group in groups if group['params']]
    return torch.optim.AdamW(groups, lr=lr)


def learning_rate(lr, epochs_done, n_epoch, warmup_epochs, time_used=None):
    """Linear warm-up to `lr`, then a cosine to a hundredth of it (Loshchilov and Hutter 2017, 1608.03983).

    It is a function of the position alone (`epochs_done` counts parts of epochs), so resuming needs no state.

    Args:
        time_used: None, or the part of the run's time that is used up, 0 to 1: then the cosine follows it in the place
            of n_epoch, and warm-up ends where the two meet, if an epoch takes that long.
    """

    def cosine(part):
        return 0.01 + 0.99 * (1 + math.cos(math.pi * min(part, 1.0))) / 2

    rising = max(epochs_done / warmup_epochs, 0.001) if epochs_done < warmup_epochs else 1.0
    if time_used is not None:
        return lr * min(rising, cosine(time_used))
    if rising < 1:
        return lr * rising
    return lr * cosine((epochs_done - warmup_epochs) / max(n_epoch - warmup_epochs, 1e-9))
