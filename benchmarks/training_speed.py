"""How fast detectors train with and without half precision: python benchmarks/training_speed.py

Times the forward pass, losses, backward pass and optimizer step on one batch of the toy show, without loading. The two
rows of a detector take turns in one run, because a busy machine slows both alike: compare the ratio, not milliseconds.

Then times what prepares batches, without a network, for each way of `keep_frames`: no GPU can train faster.
"""

import statistics
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

# PyTorch and what needs it are imported where they are used, so that --help answers at once.
from konohana.cast import CLASS_NAMES
from konohana.errors import UserError
from konohana.settings import read, require, run

detector = 'konohana'  # detectors' names, separated by commas
img_hw = (360, 640)  # height and width of the frames
batch_size = 16  # frames in a batch
n_runs = 8  # timed steps of each, after one to warm up; and passes over the frames
n_frames = 64  # frames of the toy show that are prepared for training; 0 for none
num_workers = 2  # processes that prepare them
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
    from konohana.evaluation.cost import wait_for
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
        wait_for(device)

    return step


def prepare_rates(img_hw, batch_size, n_frames, num_workers, n_runs, device):
    """Frames a second that training gets, with the default augmentation, for each way of keeping frames.

    Returns:
        dict of name -> list of `n_runs` rates. Without a GPU the last is what processes draw for one, see `on_device`.
    """
    import tempfile

    from torch.utils.data import DataLoader

    import _train
    from konohana.data.on_device import Plans, collate_plans
    from konohana.data.voc import read_split
    from konohana.evaluation.cost import take_turns
    from konohana.toy import writer
    from konohana.training.data import LARGE, TrainingFrames, make_loader

    with tempfile.TemporaryDirectory() as folder:
        writer.write_voc(folder, n_train=n_frames, n_val=1, hw=img_hw, progress=False)
        frames, _ = read_split(folder, 'train', progress=False)
        of_all = TrainingFrames(frames, [], list(CLASS_NAMES))
        loaders = {}
        for choice in ('no', 'ram', *(() if device.type == 'cpu' else ('gpu',))):
            given = [f'img_hw={img_hw[0]},{img_hw[1]}', f'batch_size={batch_size}', f'num_workers={num_workers}']
            given += [f'keep_frames={choice}', 'group_by_aspect=False', 'repeat_rare=0', 'progress=False']
            loaders[choice] = make_loader(read(vars(_train), given), of_all, False, device)
        if device.type == 'cpu':
            ready = loaders['ram']
            loaders['drawn for a GPU'] = DataLoader(
                Plans(ready.dataset),
                batch_sampler=ready.batch_sampler,
                num_workers=num_workers,
                collate_fn=collate_plans,
                persistent_workers=num_workers > 0,
            )
        for loader in loaders.values():
            loader.batch_sampler.stage = LARGE
        passes = {name: lambda loader=loader: go_through(loader, device) for name, loader in loaders.items()}
        times = take_turns(passes, n_runs, warm_up=1)
    return {name: [n_frames / seconds for seconds in of_one] for name, of_one in times.items()}


def go_through(loader, device):
    """Take all batches of a loader, until the device has them."""
    from konohana.evaluation.cost import wait_for

    for _ in loader:
        pass
    wait_for(device)


def main(arguments=None):
    settings = read(globals(), arguments)
    require(settings, batch_size=(2, None), n_runs=(1, None), threads=(0, None))
    require(settings, n_frames=(0, None), num_workers=(0, 256))
    names = list(dict.fromkeys(name.strip() for name in settings.detector.split(',') if name.strip()))
    if not names:
        raise UserError("detector='': name at least one, like detector='konohana, yolof'.")
    import torch

    from konohana.evaluation.cost import take_turns
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
        times = take_turns(steps, settings.n_runs, warm_up=1)
        for amp, seconds in times.items():
            ratio = statistics.median(a / b for a, b in zip(seconds, times[False], strict=True))
            one = statistics.median(seconds)
            kind = str(half if amp and half else torch.float32).removeprefix('torch.')
            print(f'| {name} amp={amp} | {kind} | {one * 1e3:.0f} | {settings.batch_size / one:.1f} | {ratio:.2f} |')
    if settings.n_frames:
        rates = prepare_rates(
            img_hw, settings.batch_size, settings.n_frames, settings.num_workers, settings.n_runs, device
        )
        print(f'\nBatches prepared by num_workers={settings.num_workers}:')
        print('| keep_frames | images/s | against reading each |\n|---|---|---|')
        for name, of_one in rates.items():
            ratio = statistics.median(a / b for a, b in zip(of_one, rates['no'], strict=True))
            print(f'| {name} | {statistics.median(of_one):.1f} | {ratio:.2f} |')


if __name__ == '__main__':
    run(main)
