"""How fast detectors train with and without half precision: python benchmarks/training_speed.py

Times the forward pass, losses, backward pass and optimizer step on one batch of the toy show, without loading. The two
rows of a detector take turns in one run, because a busy machine slows both alike: compare the ratio, not milliseconds.
"""

import statistics
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

# PyTorch and what needs it are imported where they are used, so that --help answers at once.
from konohana.cast import CLASS_NAMES
from konohana.errors import UserError
from konohana.settings import read, require, run

detector = 'konohana'  # detectors' names, separated by commas
img_hw = (360, 640)  # height and width of the frames
batch_size = 16  # frames in a batch
n_runs = 8  # timed steps of each, after one to warm up
threads = 0  # threads to use, 0 for torch's choice
device = 'cpu'  # 'cuda', 'mps', 'cpu', or '' for the fastest there is


def toy_batch(batch_size, img_hw, device):
    """`batch_size` frames of the toy show on a device -> (list of images, list of targets with boxes and masks)."""
    import torch

    from konohana.toy.writer import draw_frame

    images, targets = [], []
    for i in range(batch_size):
        frame = draw_frame(i, img_hw)
        images.append(torch.from_numpy(frame['image']).permute(2, 0, 1).float().to(device) / 255)
        target = {
            'boxes': torch.from_numpy(frame['boxes']),
            'labels': torch.tensor([CLASS_NAMES.index(name) + 1 for name in frame['labels']], dtype=torch.int64),
            'masks': torch.from_numpy(frame['masks']).to(torch.uint8),
        }
        targets.append({key: value.to(device) for key, value in target.items()})
    return images, targets


def make_step(name, img_hw, device, amp, batch):
    """A function that trains a new detector of that name by one step on `batch` (images, targets)."""
    import torch

    from konohana.detectors import build
    from konohana.training import half_precision
    from konohana.training.schedule import make_optimizer

    torch.manual_seed(0)
    model = build(name, len(CLASS_NAMES), img_hw).to(device, memory_format=torch.channels_last).train()
    if amp:
        half_precision.quicken_depthwise(model)
    optimizer = make_optimizer(model, lr=1e-5, weight_decay=0.05)
    scaler = torch.amp.GradScaler(device.type, enabled=amp and device.type == 'cuda')

    def step():
        with half_precision.autocast(device, amp):
            losses = model(*batch)
        scaler.scale(sum(losses.values())).backward()
        scaler.step(optimizer)
        scaler.update()
        optimizer.zero_grad(set_to_none=True)
        if device.type != 'cpu':
            getattr(torch, device.type).synchronize()

    return step


def time_steps(steps, n_runs):
    """Dict of name -> function, which take turns -> dict of name -> list of `n_runs` times in seconds."""
    times = {name: [] for name in steps}
    for i in range(n_runs + 1):
        for name, step in steps.items():
            started = time.perf_counter()
            step()
            if i:
                times[name].append(time.perf_counter() - started)
    return times


def main(arguments=None):
    settings = read(globals(), arguments)
    require(settings, batch_size=(2, None), n_runs=(1, None), threads=(0, None))
    names = list(dict.fromkeys(name.strip() for name in settings.detector.split(',') if name.strip()))
    if not names:
        raise UserError("detector='': name at least one, like detector='konohana, yolof'.")
    import torch

    from konohana.inference import pick_device
    from konohana.training import half_precision

    if settings.threads:
        torch.set_num_threads(settings.threads)
    device, img_hw = pick_device(settings.device), settings.img_hw
    half = half_precision.half_type(device)
    print(
        f'{img_hw[0]} x {img_hw[1]}, batch_size={settings.batch_size}, {device}, {torch.get_num_threads()} threads, '
        f'median of {settings.n_runs} steps'
    )
    if half is None:
        print('Half precision is not used on this device, so amp=True changes nothing here.')
    batch = toy_batch(settings.batch_size, img_hw, device)
    print('| detector | computes in | ms a step | images/s | against float32 |\n|---|---|---|---|---|')
    for name in names:
        steps = {amp: make_step(name, img_hw, device, amp, batch) for amp in (False, True)}
        times = time_steps(steps, settings.n_runs)
        for amp, seconds in times.items():
            ratio = statistics.median(a / b for a, b in zip(seconds, times[False], strict=True))
            one = statistics.median(seconds)
            kind = str(half if amp and half else torch.float32).removeprefix('torch.')
            print(f'| {name} amp={amp} | {kind} | {one * 1e3:.0f} | {settings.batch_size / one:.1f} | {ratio:.2f} |')


if __name__ == '__main__':
    run(main)
