"""Optimizer, learning rate, and the moving average of weights."""

import copy
import math

import torch


class Ema:
    """Exponential moving average of a model's weights and buffers, used for testing (Polyak averaging).

    The decay starts low and rises to `decay`, min(decay, (1 + n) / (10 + n)) after n updates, so that in a short
    run the first weights do not dominate the average. `ema.model` is the averaged model, in evaluation mode.
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
    """AdamW (Loshchilov and Hutter 2019, 1711.05101); no weight decay for norms, biases and other vectors.

    The detector's `backbone_parameters` learn at `backbone_lr` times the rate, stored as `lr_factor` of each group.
    """
    backbone = {id(parameter) for parameter in model.backbone_parameters()}
    groups = [
        {'params': [], 'weight_decay': decay, 'lr_factor': factor}
        for factor in (backbone_lr, 1.0)
        for decay in (weight_decay, 0.0)
    ]
    for parameter in model.parameters():
        if parameter.requires_grad:
            groups[2 * (id(parameter) not in backbone) + (parameter.ndim <= 1)]['params'].append(parameter)
    groups = [group for group in groups if group['params']]
    return torch.optim.AdamW(groups, lr=lr)


def load_optimizer(optimizer, model, state):
    """Load the state of an optimizer of `make_optimizer` for `model`, and its groups' decay and rates.

    Args:
        state: its `state_dict`. In older ones a backbone outside of `model.backbone` has no groups of its own, so all
            parameters that decay come first, then the others; they go on at one rate.

    Raises:
        AttributeError, LookupError, TypeError, ValueError: the state does not fit.
    """
    groups, saved = optimizer.state_dict()['param_groups'], state['param_groups']
    if not all(isinstance(part, dict) for part in (*saved, state['state'], *state['state'].values())):
        raise TypeError('its optimizer holds something else')
    parameters = [parameter for group in optimizer.param_groups for parameter in group['params']]
    if [len(group['params']) for group in saved] == [len(group['params']) for group in groups]:
        position = {id(parameter): i for i, parameter in enumerate(parameters)}
        before = saved
    else:
        learned = [parameter for parameter in model.parameters() if parameter.requires_grad]
        two = [[p for p in learned if p.ndim > 1], [p for p in learned if p.ndim <= 1]]
        if [len(group['params']) for group in saved] != [len(group) for group in two]:
            raise ValueError('its optimizer learned other parameters than now; was only_second_look another?')
        position = {id(parameter): i for i, parameter in enumerate(two[0] + two[1])}
        before = [saved[group['params'][0].ndim <= 1] for group in optimizer.param_groups]
    for group, old in zip(groups, before, strict=True):
        group.update(lr_factor=_factor(old.get('lr_factor', 1.0)), weight_decay=_factor(old['weight_decay']))
    gathered = {}
    for i, parameter in enumerate(parameters):
        entry = state['state'].get(position[id(parameter)])
        if entry is not None:
            _refuse_damaged(entry, parameter)
            gathered[i] = entry
    optimizer.load_state_dict({'state': gathered, 'param_groups': groups})


def _refuse_damaged(entry, parameter):
    """Raise ValueError unless `entry` is a possible state of AdamW for a parameter."""
    mean, square = entry['exp_avg'], entry['exp_avg_sq']
    if mean.shape != parameter.shape or square.shape != parameter.shape or entry['step'].ndim:
        raise ValueError('its optimizer has averages of other shapes')
    if not mean.isfinite().all() or not square.isfinite().all() or (square < 0).any() or not entry['step'] >= 0:
        raise ValueError('its optimizer has averages or steps that cannot be')


def _factor(value):
    """A number from 0 up; ValueError or TypeError for anything else."""
    if not 0 <= value < math.inf:
        raise ValueError(f'its optimizer has a rate or decay of {value}')
    return float(value)


def set_learning_rate(optimizer, lr):
    """Give each group of parameters its rate: `lr`, times the group's `lr_factor` if it has one."""
    for group in optimizer.param_groups:
        group['lr'] = lr * group.get('lr_factor', 1.0)


def learning_rate(lr, epochs_done, n_epoch, warmup_epochs, time_used=None):
    """Linear warm-up to `lr`, then a cosine to a hundredth of it (Loshchilov and Hutter 2017, 1608.03983).

    It is a function of the position alone (`epochs_done` counts parts of epochs), so resuming needs no state.

    Args:
        time_used: None, or the share of the run's time that is used up, 0 to 1. The cosine then follows it instead of
            n_epoch, and the rate is the lower one of warm-up and cosine.
    """

    def cosine(part):
        return 0.01 + 0.99 * (1 + math.cos(math.pi * min(part, 1.0))) / 2

    rising = max(epochs_done / warmup_epochs, 0.001) if epochs_done < warmup_epochs else 1.0
    if time_used is not None:
        return lr * min(rising, cosine(time_used))
    if rising < 1:
        return lr * rising
    return lr * cosine((epochs_done - warmup_epochs) / max(n_epoch - warmup_epochs, 1e-9))
