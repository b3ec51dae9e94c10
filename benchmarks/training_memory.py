"""How much GPU memory training takes, accounted without a GPU: python benchmarks/training_memory.py

Two training steps run on tensors that have a shape and a type but no values (PyTorch's FakeTensorMode); what lives at
the same time is added up: weights, their moving average, the optimizer's state, gradients, frames and the maps that the
backward pass needs, in half precision as on a GPU. The losses choose by values, so they run for themselves, on maps of
the same size. Memory of CUDA itself is added; that of cuDNN's kernels and what the allocator cannot join is not known.
With a GPU the same steps are run and measured beside it.
"""

import sys
import weakref
from pathlib import Path
from types import SimpleNamespace

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

# PyTorch and what needs it are imported where they are used, so that --help answers at once.
from konohana.cast import CLASS_NAMES
from konohana.errors import UserError
from konohana.settings import read, require, run

detector = 'konohana'  # detectors' names, separated by commas: konohana, yolof, solov2_light_r18, ...
img_hw = (360, 640)  # height and width of the frames
batch_sizes = '8, 16, 32'  # frames in a batch
activation = 'relu6'  # konohana: see _train.py
second_look = True  # konohana: train the second look too, as _train.py does
people = 4  # people in each frame, whom the second look sees
keep_frames = 0  # frames of that size that are kept on the GPU, see keep_frames of _train.py

MIB = 2**20


def main(arguments=None):
    settings = read(globals(), arguments)
    require(settings, people=(1, None), keep_frames=(0, None))
    sizes = [int(text) for text in settings.batch_sizes.split(',') if text.strip().isdecimal()]
    if not sizes or min(sizes) < 2:
        raise UserError(f"batch_sizes={settings.batch_sizes!r}: numbers from 2 on, like '8, 16'.")
    import torch

    from konohana.training.memory import CUDA_CONTEXT_GIB

    columns = ['detector', 'batch', *Account.PARTS, 'peak', 'with CUDA, GiB']
    if torch.cuda.is_available():
        columns.append('measured, GiB')
    print('MiB:\n| ' + ' | '.join(columns) + ' |\n|' + '---|' * len(columns))
    for name in filter(None, map(str.strip, settings.detector.split(','))):
        options = {'activation': settings.activation, 'second_look': settings.second_look}
        for batch_size in sizes:
            account = Account(name, settings.img_hw, batch_size, settings.people, options, settings.keep_frames)
            cells = [name, batch_size, *(f'{account.parts[part] / MIB:.0f}' for part in Account.PARTS)]
            cells += [f'{account.peak / MIB:.0f}', f'{account.peak / 2**30 + CUDA_CONTEXT_GIB:.2f}']
            if torch.cuda.is_available():
                reserved = measured(name, settings.img_hw, batch_size, settings.people, options, settings.keep_frames)
                cells.append(f'{reserved / 2**30 + CUDA_CONTEXT_GIB:.2f}')
            print('| ' + ' | '.join(map(str, cells)) + ' |')


class Account:
    """The memory of a training step, in bytes.

    Args:
        name: a detector's name, with `raw_outputs`. img_hw: (height, width). batch_size: frames. people: in each frame.
        options: dict of the detector's variables, of which it takes its own. kept: number of frames kept there.

    Attributes:
        parts: dict of what `PARTS` names; peak: what lives at the same time at most, the losses included.
    """

    PARTS = ('kept frames', 'weights', 'average', 'optimizer', 'frames and maps', 'losses')

    def __init__(self, name, img_hw, batch_size, people=4, options=None, kept=0):
        import torch
        from torch._subclasses.fake_tensor import FakeTensorMode

        from konohana.detectors import build, options_of

        options, size = options_of(name, options or {}), (batch_size, 3, *img_hw)
        with FakeTensorMode(allow_non_fake_inputs=True), live_bytes() as live:
            model, average = (build(name, len(CLASS_NAMES), img_hw, **options).train() for _ in range(2))
            if model.wants_masks or not model.has_raw_outputs:
                raise UserError(f'detector={name!r}: its memory depends on what it finds. Choose konohana or yolof.')
            self.parts, self.shapes = {'weights': live.now / 2, 'average': live.now / 2}, {}
            self._train(model, average, torch.zeros(size, dtype=torch.uint8), live)
        self.peak = live.peak
        model = build(name, len(CLASS_NAMES), img_hw, **options).train()
        outputs = {key: torch.zeros(shape, requires_grad=True) for key, shape in self.shapes.items()}
        targets, batch = targets_of(batch_size, img_hw, people), torch.zeros(size)
        with live_bytes() as live:
            with torch.autocast('cpu', dtype=torch.bfloat16):
                losses = model.losses(outputs, targets, [tuple(img_hw)] * batch_size, batch)
            sum(losses.values()).backward()
        self.parts.update({'losses': live.peak, 'kept frames': kept * 3 * img_hw[0] * img_hw[1]})
        self.peak += live.peak + self.parts['kept frames']

    def _train(self, model, average, images, live):
        """Two steps of training, as `training.engine` makes them."""
        import torch

        from konohana.training.engine import optimizer_step
        from konohana.training.schedule import make_optimizer

        def losses(outputs, *_):
            self.shapes = {key: tuple(value.shape) for key, value in outputs.items()}
            self.parts['frames and maps'] = live.now - before
            return {'loss': sum(value.float().sum() for value in outputs.values())}

        model.losses = losses  # the real ones choose by values
        averaging = SimpleNamespace(model=average, update=lambda model: None)  # in place
        run = SimpleNamespace(model=model, ema=averaging, optimizer=make_optimizer(model, 1e-3, 0.05))
        run.scaler = torch.amp.GradScaler('cpu', enabled=False)
        for _ in range(2):
            before = live.now
            batch = [image.float() / 255 for image in images]
            with torch.autocast('cpu', dtype=torch.bfloat16):  # as many bytes as CUDA's float16
                total = sum(model(batch, [{} for _ in batch]).values())
            del batch
            total.backward()
            del total
            optimizer_step(run, 10.0)
            self.parts.setdefault('optimizer', live.now - before)


def targets_of(batch_size, img_hw, people):
    """Targets of `people` boxes side by side in each frame."""
    import torch

    left = torch.arange(people) * img_hw[1] / people
    boxes = torch.stack(
        [left, torch.zeros(people), left + img_hw[1] / people, torch.full((people,), float(img_hw[0]))], 1
    )
    return [{'boxes': boxes, 'labels': torch.ones(people, dtype=torch.int64)} for _ in range(batch_size)]


def live_bytes():
    """A context in which the bytes of tensors that live are counted: `now` and, at most so far, `peak`."""
    from torch import Tensor
    from torch.utils._python_dispatch import TorchDispatchMode
    from torch.utils._pytree import tree_leaves

    class LiveBytes(TorchDispatchMode):
        def __init__(self):
            super().__init__()
            self.now = self.peak = 0
            self.known = set()

        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            result = function(*args, **(kwargs or {}))
            for value in tree_leaves(result):
                if isinstance(value, Tensor):
                    self.count(value.untyped_storage())
            return result

        def count(self, storage):
            # Views share their storage, which is one object as long as it lives.
            if id(storage) not in self.known:
                self.known.add(id(storage))
                self.now += storage.nbytes()
                self.peak = max(self.peak, self.now)
                weakref.finalize(storage, self.drop, id(storage), storage.nbytes())

        def drop(self, key, size):
            self.known.discard(key)
            self.now -= size

    return LiveBytes()


def measured(name, img_hw, batch_size, people, options, kept=0):
    """Bytes that PyTorch reserves on the GPU for the same steps."""
    import torch

    from konohana.detectors import build, options_of
    from konohana.training.engine import train_step
    from konohana.training.schedule import Ema, make_optimizer

    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    device = torch.device('cuda')
    block = torch.empty(kept * 3 * img_hw[0] * img_hw[1], dtype=torch.uint8, device=device)
    model = build(name, len(CLASS_NAMES), img_hw, **options_of(name, options)).train()
    model = model.to(device, memory_format=torch.channels_last)
    run = SimpleNamespace(model=model, network=model, ema=Ema(model), optimizer=make_optimizer(model, 1e-3, 0.05))
    run.scaler = torch.amp.GradScaler('cuda')
    images = list(torch.zeros((batch_size, 3, *img_hw), dtype=torch.uint8))
    how = SimpleNamespace(amp=True, accumulate=1, clip_norm=10.0)
    for _ in range(3):
        train_step(run, images, targets_of(batch_size, img_hw, people), device, how)
    del block
    return torch.cuda.max_memory_reserved()


if __name__ == '__main__':
    run(main)
