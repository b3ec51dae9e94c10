"""Memory of training: its limit, its peak, and what to change if it runs out."""

import contextlib
import os

import torch

from konohana.errors import UserError

# Memory of a CUDA process outside PyTorch's allocator: context, kernels, cuDNN handles. The limit leaves room for it.
CUDA_CONTEXT_GIB = 0.5


def cap_gpu_memory(device, limit_gib):
    """Limit this process's GPU memory to `limit_gib` GiB, including its CUDA context; allocations beyond it fail.

    0 is no limit. Without CUDA nothing happens.
    """
    if device.type != 'cuda' or not limit_gib:
        return
    if limit_gib <= CUDA_CONTEXT_GIB:
        raise UserError(f'vram_limit_gib={limit_gib}: CUDA itself takes about {CUDA_CONTEXT_GIB} GiB. Allow more.')
    total = torch.cuda.get_device_properties(device).total_memory / 2**30
    torch.cuda.set_per_process_memory_fraction(min(1.0, (limit_gib - CUDA_CONTEXT_GIB) / total), device)


def free_ram():
    """Bytes of the machine's memory that programs can still take."""
    import psutil  # here, because it is needed for this alone

    return psutil.virtual_memory().available


def free_gpu_memory(device, limit_gib):
    """Bytes that this process can still take on a GPU of CUDA, see `cap_gpu_memory`."""
    free, total = torch.cuda.mem_get_info(device)
    allowed = (limit_gib - CUDA_CONTEXT_GIB) * 2**30 if limit_gib else total
    return max(0, min(free, int(allowed) - torch.cuda.memory_reserved(device)))


def peak_memory_gib(device):
    """Most memory this process has held so far, in GiB: of the GPU if it trains there, else of the machine; or None."""
    if device.type == 'cuda':
        return torch.cuda.max_memory_reserved(device) / 2**30 + CUDA_CONTEXT_GIB
    try:
        import resource
    except ImportError:  # Windows
        return None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (2**30 if os.uname().sysname == 'Darwin' else 2**20)


@contextlib.contextmanager
def out_of_memory_explained(device, settings):
    """Turn running out of GPU memory into a UserError: the numbers, and the variables to change.

    Args:
        device: torch.device. settings: namespace of `batch_size`, `img_hw`, `vram_limit_gib` and `keep_frames`.
    """
    try:
        yield
    except torch.cuda.OutOfMemoryError:
        held = torch.cuda.max_memory_reserved(device) / 2**30 + CUDA_CONTEXT_GIB
        total = torch.cuda.get_device_properties(device).total_memory / 2**30
        limit, kept = settings.vram_limit_gib or total, settings.keep_frames == 'gpu'
        raise UserError(
            f'Out of GPU memory: batch_size={settings.batch_size} at img_hw={settings.img_hw} wants more than '
            f'{limit:.1f} GiB (held {held:.2f}, the card has {total:.1f}). Lower batch_size (accumulate=2 makes up for '
            f'half of it) or img_hw, or raise vram_limit_gib{", or take keep_frames=ram" if kept else ""}.'
        ) from None
