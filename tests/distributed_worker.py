"""What test_distributed.py runs in one process and in several: a few steps of training, written down by rank 0."""

from pathlib import Path
from types import SimpleNamespace

import torch
from torch import nn
from torch.utils.data import DataLoader

from konohana import detectors, distributed
from konohana.data.augment import training_transform
from konohana.data.dataset import Frames, collate
from konohana.data.reading import class_names_of, read_frames
from konohana.data.sampler import EpochBatches
from konohana.interrupts import StopRequest
from konohana.training.engine import train_one_epoch
from konohana.training.run import Run
from konohana.training.schedule import Ema

IMG_HW = (64, 96)
SETTINGS = SimpleNamespace(
    **{'lr': 0.05, 'n_epoch': 1, 'max_minutes': 0.0, 'warmup_epochs': 0.0, 'accumulate': 2, 'clip_norm': 5.0},
    **{'amp': False, 'save_minutes': 99.0, 'progress': False},
)


class MeanOfImages(nn.Module):
    """A detector whose loss is a mean over its images, as torchvision's are; dark images leave `bright` unused."""

    def __init__(self):
        super().__init__()
        self.layer, self.bright = nn.Linear(3, 1), nn.Linear(3, 1)

    def forward(self, images, targets):
        colours = torch.stack([image.mean(dim=(1, 2)) for image in images])
        losses = [self.layer(c).sum() if c.mean() < 0.5 else self.bright(c).pow(2).sum() for c in colours]
        return {'loss_mean': torch.stack(losses).mean()}


def flagship(n_classes):
    """A flagship whose batch norms stay in evaluation mode, since on the CPU each process would have its own."""
    model = detectors.build('konohana', n_classes, IMG_HW)
    for norm in model.modules():
        if isinstance(norm, nn.BatchNorm2d):
            norm.eval()
            norm.train = lambda mode=True, norm=norm: norm
    return model


def train(dataset, folder):
    """Train both detectors for an epoch -> {name: (losses of each iteration, weights)}."""
    torch.set_num_threads(1)
    device = distributed.start(torch.device('cpu'))
    (frames,), _ = read_frames(dataset, ['train'], '', progress=False)
    names = class_names_of(dataset, frames)
    results = {}
    for name, build in (('flagship', lambda: flagship(len(names))), ('mean', MeanOfImages)):
        torch.manual_seed(0)
        model = build()
        # Plain descent: AdamW would turn rounding errors of a gradient near 0 into whole steps.
        optimizer = torch.optim.SGD(model.parameters(), lr=SETTINGS.lr)
        scaler = torch.amp.GradScaler('cpu', enabled=False)
        run = Run(Path(folder) / name, model, Ema(model), optimizer, scaler, {}, {})
        # Twelve frames in batches of five: 5, 5 and 2, which two processes cannot halve evenly.
        data = Frames(frames, names, training_transform(IMG_HW))
        loader = DataLoader(data, batch_sampler=EpochBatches(len(data), 5), collate_fn=collate)
        losses = []

        def write(key, value, iteration, losses=losses):
            losses.append((iteration, key, value))

        with StopRequest() as stop:
            for _ in range(SETTINGS.n_epoch):
                train_one_epoch(run, loader, device, SETTINGS, stop, write)
        run.save()
        results[name] = (losses, model.state_dict())
    return results


def main(dataset, result):
    """What a process does: train, and as rank 0 write `result`, a file beside the runs' folders."""
    found = train(dataset, Path(result).parent)
    if not distributed.rank():
        torch.save(found, result)
