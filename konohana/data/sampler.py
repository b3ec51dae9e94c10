"""The order in which training sees frames."""

import torch
from torch.utils.data import Sampler

from konohana import distributed
from konohana.errors import UserError


def repeat_rare_frames(frames, share):
    """Repeat frames with rare classes: LVIS's repeat factor sampling (Gupta et al. 2019, 1908.03195), up to twice.

    Args:
        frames: list of `Sample`.
        share: a class in fewer than this share of the frames is rare, 0 to 1.

    Returns:
        list of `frames`, followed by a part of those with a rare class: sqrt(share / its share) - 1, at most 1.
    """
    held = [set(frame.names) for frame in frames]
    counts = {name: sum(name in names for names in held) for name in set().union(*held)}
    more = {name: min(1.0, max(0.0, (share * len(frames) / count) ** 0.5 - 1)) for name, count in counts.items()}
    repeated, due = [], 0.0
    for frame, names in zip(frames, held, strict=True):
        # Adding up the fractions spreads the repeated frames evenly over the episodes.
        due += max((more[name] for name in names), default=0.0)
        if due >= 1.0 and any(more[name] for name in names):
            repeated.append(frame)
            due -= 1.0
    return frames + repeated


class EpochBatches(Sampler):
    """Batches of keys (epoch, index, stage) in an order that depends on the seed and the epoch alone.

    Set `epoch`, `stage` (see `Frames`) and `skip` (batches already done in this epoch) before each pass. The last batch
    may be smaller. A last batch of a single frame, from which batch norm learns nothing, joins the batch before.

    When several processes train together (see `distributed`), `batches` lists the batches of all processes, and each
    process iterates over its share of every batch. A last batch with less than a frame for each joins the one before.

    Args:
        n: number of frames.
        batch_size: frames in a batch, of all processes together.
        seed: of the order.
        groups: list of n values, the group of each frame; a batch then holds frames of one group, as in torchvision's
            references (`upright` groups by aspect ratio). The rest of a group too small for a batch joins another's.

    Raises:
        UserError: fewer frames, or frames in a batch, than there are processes.
    """

    def __init__(self, n, batch_size, seed=0, groups=None):
        self.n, self.batch_size, self.seed = n, batch_size, seed
        self.groups = [0] * n if groups is None else list(groups)
        self.epoch = self.skip = self.stage = 0
        if min(n, batch_size) < distributed.world_size():
            raise UserError(
                f'{n} frames in batches of batch_size={batch_size} cannot be shared by {distributed.world_size()} '
                'processes: each needs a frame of every batch.'
            )

    def batches(self):
        """The batches of this epoch, of all processes: list of lists of indices."""
        generator = torch.Generator().manual_seed(hash((self.seed, self.epoch)) % 2**63)
        order = torch.randperm(self.n, generator=generator).tolist()
        smallest = max(2, distributed.world_size())
        batches, left = [], []
        for group in sorted(set(self.groups)):
            members = [index for index in order if self.groups[index] == group]
            own = [members[i : i + self.batch_size] for i in range(0, len(members), self.batch_size)]
            if len(own[-1]) < smallest:
                (own[-2] if len(own) > 1 else left).extend(own.pop())
            batches += own
        if len(left) >= smallest or not batches:
            batches.append(left)
        else:
            batches[-1].extend(left)
        if len(set(self.groups)) > 1:
            batches = [batches[i] for i in torch.randperm(len(batches), generator=generator).tolist()]
        return batches

    def __iter__(self):
        for batch in self.batches()[self.skip :]:
            yield [(self.epoch, index, self.stage) for index in distributed.share(batch)]

    def __len__(self):
        return len(self.batches()) - self.skip


def upright(frames):
    """List of `Sample` -> list of bool: the picture is higher than wide. Groups for `EpochBatches`."""
    return [bool(frame.height > frame.width) for frame in frames]
