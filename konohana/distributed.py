"""Training in several processes, on several graphics cards or machines: torchrun --nproc_per_node=2 _train.py

torchrun starts the script once per graphics card; each process has a rank. Each takes its share of every batch,
DistributedDataParallel averages the gradients (Li et al. 2020, 2006.15704), and only rank 0 writes, prints and
evaluates. Without torchrun there is one process, of rank 0, and every function here returns its input unchanged.
"""

import atexit
import contextlib
import datetime
import os
import sys
import time
import warnings
from pathlib import Path

import torch
import torch.distributed as dist
from torch import nn

from konohana.errors import UserError

# The other ranks wait while rank 0 evaluates, however long that takes; torchrun ends them if rank 0 dies.
TIMEOUT = datetime.timedelta(days=7)


def start(device):
    """Join the processes that torchrun started, if it did.

    Args:
        device: torch.device the user chose ('cuda' without a number, or 'cpu').

    Returns:
        torch.device of this process. Ranks other than 0 print nothing from here on.

    Raises:
        UserError: more processes than graphics cards on this machine; a device other than cuda and cpu.
    """
    if 'WORLD_SIZE' not in os.environ or 'RANK' not in os.environ or dist.is_initialized():
        return device
    local_rank, n_local = (int(os.environ.get(key, 0)) for key in ('LOCAL_RANK', 'LOCAL_WORLD_SIZE'))
    if device.type not in ('cuda', 'cpu'):
        raise UserError(
            f'device={device}: several processes train on cuda or cpu only. Start the script without torchrun.'
        )
    if device.type == 'cuda':
        if n_local > torch.cuda.device_count():
            raise UserError(
                f'torchrun --nproc_per_node={n_local}: this machine has {torch.cuda.device_count()} CUDA cards, and '
                'each process needs one of its own.'
            )
        device = torch.device('cuda', local_rank)
        torch.cuda.set_device(device)
    dist.init_process_group('nccl' if device.type == 'cuda' else 'gloo', timeout=TIMEOUT)
    atexit.register(dist.destroy_process_group)
    sys.excepthook = _explain_later
    if rank():
        sys.stdout = Path(os.devnull).open('w', encoding='utf-8')
    return device


def _explain_later(*error):
    """Show a traceback only if this process still runs a few seconds later.

    When one process fails, the others lose their connection to it and torchrun ends them; their tracebacks say nothing.
    """
    time.sleep(5)
    sys.__excepthook__(*error)


def rank():
    """This process's rank, 0 .. world_size - 1; rank 0 writes and prints."""
    return dist.get_rank() if dist.is_available() and dist.is_initialized() else 0


def world_size():
    """Number of processes that train together."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def share(batch):
    """This process's part of a batch (a list); no two parts differ by more than one in length."""
    return batch[rank() :: world_size()]


def wrap(model):
    """The model to call in training; with several processes it averages the gradients over them.

    On CUDA batch norm sees the whole batch, see `synchronise_norms`. PyTorch has none for the CPU: there each process
    normalises by its own share, and rank 0's running averages are kept.
    """
    if world_size() == 1:
        return model
    if next(model.parameters()).device.type == 'cuda':
        synchronise_norms(model)
    # PyTorch warns about layers whose gradients are channels_last; the result is the same.
    warnings.filterwarnings('ignore', message='Grad strides do not match bucket view strides')
    return nn.parallel.DistributedDataParallel(model)


def synchronise_norms(model):
    """Make SyncBatchNorm of a model's batch norms, in place; the names of the weights stay.

    Not in the parts that `model.seldom` names: the other processes would wait for one that passes such a part over.
    """
    convert = nn.SyncBatchNorm.convert_sync_batchnorm
    if any(type(module).__module__.startswith('timm.') for module in model.modules()):
        # timm's batch norm may carry an activation, which PyTorch's own function would lose.
        from timm.layers import convert_sync_batchnorm as convert
    for name, part in list(model.named_children()):
        if name not in getattr(model, 'seldom', ()):
            setattr(model, name, convert(part))


def zero_of(model):
    """0, as a function of all trainable weights.

    Added to the loss, it gives each weight a gradient in every process. DistributedDataParallel waits for all of them,
    and pictures without characters may leave some weights unused.
    """
    if world_size() == 1:
        return 0.0
    return 0.0 * sum(parameter.sum() for parameter in model.parameters() if parameter.requires_grad)


def summed(values):
    """Tensor -> its sum over all processes, without gradient; `values` is not changed."""
    values = values.detach()
    if world_size() == 1:
        return values
    values = values.clone()
    dist.all_reduce(values)
    return values


def normaliser(total, n_images, minimum=1.0):
    """The divisor, in this process, of a loss that is divided by a total over the batch.

    With it the losses of the processes, weighted by `weight` and averaged, are the loss of the whole batch.

    Args:
        total: scalar tensor, this process's part of the total. n_images: number of its images.
        minimum: lower bound of the whole batch's total.

    Returns:
        scalar tensor without gradient.
    """
    if world_size() == 1:
        return total.detach().clamp(min=minimum)
    whole = summed(torch.stack([total, total.new_tensor(float(n_images))]))
    return whole[0].clamp(min=minimum) * n_images / whole[1]


def weight(n_images, device):
    """The factor of a loss that is a mean over this process's `n_images`, before the processes are averaged."""
    if world_size() == 1:
        return 1.0
    return n_images * world_size() / float(summed(torch.tensor(float(n_images), device=device)))


def means(losses):
    """Dict of scalar tensors -> the same dict of floats, averaged over the processes (all have the same keys)."""
    if not losses:
        return {}
    values = summed(torch.stack([value.float() for value in losses.values()])) / world_size()
    return dict(zip(losses, values.tolist(), strict=True))


def highest(values, device):
    """List of numbers -> the list of their highest values over the processes, as floats.

    So a decision of one process, or of its clock, holds for all of them at the same iteration.
    """
    if world_size() == 1:
        return values
    values = torch.tensor(values, dtype=torch.float32, device=device)
    dist.all_reduce(values, dist.ReduceOp.MAX)
    return values.tolist()


def any_of(value, device):
    """Whether `value` (a bool) is true in any of the processes."""
    return bool(highest([value], device)[0])


def gathered(values):
    """List -> the lists of all processes, one after another."""
    if world_size() == 1:
        return values
    parts = [None] * world_size()
    dist.all_gather_object(parts, values)
    return [value for part in parts for value in part]


@contextlib.contextmanager
def first_rank_first():
    """Rank 0 runs the block first, then the others: they find the files that it made and need not report again."""
    if world_size() > 1 and rank():
        dist.barrier()
    yield
    if world_size() > 1 and not rank():
        dist.barrier()
