"""How fast the flagship is, in its variants, side by side: python benchmarks/speed.py

Forward and post-processing of one frame, no loading and no drawing. The variants take turns in one run, since a busy
machine slows all of them alike: look at the ratios, not at the milliseconds.
"""

import statistics
import sys
import time
from pathlib import Path

import torch
from torch.utils.flop_counter import FlopCounterMode

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from konohana.detectors import build
from konohana.inference import fuse_batch_norms, pick_device
from konohana.settings import override, run

img_hw = (360, 640)  # height and width of the frame
n_classes = 14  # number of names
n_runs = 50  # timed runs of each variant, after three to warm up
threads = 0  # threads to use, 0 for torch's choice
device = 'cpu'  # 'cuda', 'mps', 'cpu', or '' for the fastest there is

VARIANTS = {
    # name: options of the network, batch norms fused, channels_last
    'flagship': ({}, True, True),
    'flagship, batch norms not fused': ({}, False, True),
    'flagship, not channels_last': ({}, True, False),
    'flagship with Res2': ({'use_res2block': True}, True, True),
}


@torch.inference_mode()
def main():
    override(globals())
    if threads:
        torch.set_num_threads(threads)
    chosen = pick_device(device)
    frame = torch.rand(3, *img_hw, device=chosen)
    models, rows = {}, {}
    for name, (options, fused, last) in VARIANTS.items():
        torch.manual_seed(0)
        model = build('konohana', n_classes, img_hw, **options).eval()
        parameters = sum(p.numel() for p in model.parameters())
        with FlopCounterMode(display=False) as counter:
            model.raw_outputs(torch.zeros(1, 3, *img_hw))
        if fused:
            fuse_batch_norms(model)
        if not last:
            model.channels_last = False
        models[name] = model.to(chosen, memory_format=torch.channels_last if last else torch.contiguous_format)
        rows[name] = (parameters / 1e6, counter.get_total_flops() / 2e9)

    times = {name: [] for name in models}
    for i in range(n_runs + 3):
        for name, model in models.items():
            started = time.perf_counter()
            model([frame])
            if chosen.type == 'cuda':
                torch.cuda.synchronize()
            if i >= 3:
                times[name].append(time.perf_counter() - started)

    first = next(iter(times))
    print(f'{img_hw[0]} x {img_hw[1]}, {chosen}, {torch.get_num_threads()} threads, median of {n_runs} runs')
    print('| network | M parameters | GMAC | ms a frame | against the first |\n|---|---|---|---|---|')
    for name, (parameters, macs) in rows.items():
        # The ratio of two runs that followed one another, so that both saw the same machine.
        ratio = statistics.median(a / b for a, b in zip(times[name], times[first], strict=True))
        print(f'| {name} | {parameters:.2f} | {macs:.2f} | {statistics.median(times[name]) * 1e3:.0f} | {ratio:.2f} |')


if __name__ == '__main__':
    run(main)
