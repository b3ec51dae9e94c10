"""How fast the video engine is without a network: python benchmarks/video.py

Annotates a toy episode with boxes, with masks and with nothing to draw; frames per second and the processor's seconds
for each. The network takes no time here: what is measured is decoding, drawing and encoding.
"""

import resource
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from konohana.settings import read, require, run

video_in = ''  # the video; '' draws a toy episode of `hw` and `seconds`
hw = (360, 640)  # height and width of the toy episode
seconds = 10.0  # length of the toy episode
n_boxes = 3  # boxes in each frame
codec = 'h264'  # how to encode: 'h264', 'hevc' or 'av1'
batch_size = 4  # frames in a batch


def main(arguments=None):
    settings = read(globals(), arguments)
    require(settings, seconds=(0.1, None), n_boxes=(0, 19), batch_size=(1, None))
    # Imported here: PyTorch takes seconds, and --help should not.
    from konohana.toy.writer import write_video
    from konohana.video.annotate import annotate_video

    with tempfile.TemporaryDirectory() as folder:
        path = settings.path(settings.video_in) if settings.video_in else Path(folder) / 'toy.mkv'
        if not settings.video_in:
            write_video(path, seconds=settings.seconds, hw=settings.hw)
        for what in ('nothing', 'boxes', 'masks'):
            model = fixed_boxes(settings.n_boxes if what != 'nothing' else 0, what == 'masks')
            wall, cpu = time.monotonic(), _cpu_seconds()
            done = annotate_video(
                *(model, path, Path(folder) / f'{what}.mkv'), batch_size=settings.batch_size, codec=settings.codec,
                progress=False,
            )  # fmt: skip
            wall, cpu = time.monotonic() - wall, _cpu_seconds() - cpu
            print(
                f'{what:8} {done["frames"] / wall:6.1f} frames a second, {1000 * cpu / done["frames"]:5.1f} ms of CPU'
            )
        print(f'{resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024} MB of memory at most')


def _cpu_seconds():
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


def fixed_boxes(n, with_masks):
    """A model that finds n boxes, the same in each frame, at once."""
    import torch

    class Model:
        class_names = [f'name {k}' for k in range(1, n + 1)]  # noqa: RUF012
        img_hw = (360, 640)

        def __call__(self, images):
            return [self.found(*image.shape[1:]) for image in images]

        def found(self, h, w):
            left = torch.arange(n) * w / max(1, n)
            boxes = torch.stack(
                [left, torch.full((n,), 0.2 * h), left + 0.8 * w / max(1, n), torch.full((n,), 0.9 * h)]
            )
            found = {'boxes': boxes.T, 'labels': torch.arange(1, n + 1), 'scores': torch.full((n,), 0.9)}
            if with_masks:
                found['masks'] = torch.zeros(n, h, w, dtype=torch.bool)
                for mask, (x1, y1, x2, y2) in zip(found['masks'], boxes.T.int().tolist(), strict=True):
                    mask[y1:y2, x1:x2] = True
            return found

    return Model()


if __name__ == '__main__':
    run(main)
