"""Training in several processes, on several graphics cards or machines: torchrun --nproc_per_node=2 _train.py

torchrun starts the script once for each card; the processes are numbered by their rank. Each takes its share of every
batch, DistributedDataParallel averages the gradients (Li et al. 2020, 2006.15704), and rank 0 alone writes, prints and
evaluates. Without torchrun there is one process of rank 0, and every function here gives back what it is given.
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

# Others wait while rank 0 evaluates, which takes as long as it takes; torchrun itself ends them if rank 0 dies.
TIMEOUT = datetime.timedelta(days=7)


def start(device):
    """Join the processes that torchrun started, if it did.

    Args:
        device: torch.device the user chose ('cuda' without a number, or 'cpu').

    Returns:
        torch.device of this process. Ranks other than 0 print nothing from here on.

    Raises:
        UserError: more processes than graphics cards on this machine; a device that cannot do it.
    """
    if 'WORLD_SIZE' not in os.environ or 'RANK' not in os.environ or dist.is_initialized():
        return device
    local_rank, n_local = (int(os.environ.get(key, 0)) for key in ('LOCAL_RANK', 'LOCAL_WORLD_SIZE'))
    if device.type not in ('cuda', 'cpu'):
        raise UserError(f'device={device}: several processes train on cuda or cpu only. Leave torchrun out.')
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
    """Show a traceback only if this process is still there a while later.

    Where one process fails the others lose their connection to it, and torchrun ends them: theirs says nothing.
    """
    time.sleep(5)
    sys.__excepthook__(*error)


def rank():
    """This process's number; 0 is the one that writes and prints."""
    return dist.get_rank() if dist.is_available() and dist.is_initialized() else 0


def world_size():
    """Number of processes that train together."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def share(batch):
    """This process's part of a batch (a list); no two parts differ by more than one in length."""
    return batch[rank() :: world_size()]


def wrap(model):
    """The model as it is called in training: on several processes its gradients are averaged over them.

    On CUDA batch norm sees the whole batch (SyncBatchNorm, in place; the names of the weights stay). On the CPU, where
    PyTorch has none, each process normalises by its own share, and rank 0's running averages count.
    """
    if world_size() == 1:
        return model
    device = next(model.parameters()).device
    if device.type == 'cuda':
        convert = nn.SyncBatchNorm.convert_sync_batchnorm
        if any(type(module).__module__.startswith('timm.') for module in model.modules()):
            # timm's batch norm may carry an activation, which PyTorch's own function would lose.
            from timm.layers import convert_sync_batchnorm as convert
        convert(model)
    # Said of layers whose gradients come channels_last: the result is the same.
    warnings.filterwarnings('ignore', message='Grad strides do not match bucket view strides')
    return nn.parallel.DistributedDataParallel(model)


def zero_of(model):
    """0, as a function of all weights that learn.

    Added to the loss, it gives each weight a gradient in every process, which is what DistributedDataParallel waits
    for: pictures that show nobody may leave some weights unused.
    """
    if world_size() == 1:
        return 0.0
    return 0.0 * sum(parameter.sum() for parameter in model.parameters() if parameter.requires_grad)


def summed(values):
    """Tensor -> its sum over all processes, without gradient; the tensor given stays as it is."""
    values = values.detach()
    if world_size() == 1:
        return values
    values = values.clone()
    dist.all_reduce(values)
    return values


def normaliser(total, n_images, minimum=1.0):
    """What a loss that is divided by a total over the batch is to be divided by in this process.

    It makes the losses of the processes, weighted by `weight` and averaged, the loss of the whole batch.

    Args:
        total: scalar tensor, this process's part of the total. n_images: number of its images.
        minimum: the whole batch's total counts as no less.

    Returns:
        scalar tensor without gradient.
    """
    if world_size() == 1:
        return total.detach().clamp(min=minimum)
    whole = summed(torch.stack([total, total.new_tensor(float(n_images))]))
    return whole[0].clamp(min=minimum) * n_images / whole[1]


def weight(n_images, device):
    """What a loss that is a mean over this process's `n_images` is multiplied by before the processes are averaged."""
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

    What was decided by one process, or by its clock, is so decided for all of them at the same iteration.
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
    """Rank 0 goes through the block alone, then the others: what it makes they find, what it reports they need not."""
    if world_size() > 1 and rank():
        dist.barrier()
    yield
    if world_size() > 1 and not rank():
        dist.barrier()
