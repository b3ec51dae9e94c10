"""Frames kept in memory are the frames on disk; colours change in batches as torchvision changes one picture."""

from dataclasses import replace

import cv2
import numpy as np
import pytest
import torch
from torch._subclasses.fake_tensor import DataDependentOutputException, FakeTensorMode
from torchvision.transforms.v2 import functional as TF

import _train
from konohana import checkpoint, masks
from konohana.cast import CLASS_NAMES, IGNORE_CLASS
from konohana.data.augment import training_transform
from konohana.data.colour import Colour
from konohana.data.dataset import Frames, collate
from konohana.data.kept import Kept, kept_size, resized, size_of_all
from konohana.data.on_device import OnDevice, Plans, collate_plans, pasted_in
from konohana.data.paste import Paste
from konohana.data.sample import Sample
from konohana.data.voc import read_split
from konohana.detectors.transform import FrameTransform
from konohana.errors import UserError
from konohana.settings import read
from konohana.training import data, engine
from konohana.training.memory import free_gpu_memory


@pytest.fixture
def frames(toy_dataset):
    return read_split(toy_dataset, 'train', IGNORE_CLASS, progress=False)[0]


def equal(one, other):
    return all(torch.equal(*pair) for pair in zip(one, other, strict=True))


def values(sample):
    image, target = sample
    return [image, *(target[key] for key in ('boxes', 'labels', 'ignored'))]


@pytest.mark.parametrize('augmented', [False, True])
def test_kept_frames_give_the_same_samples(frames, augmented):
    transform = training_transform((90, 160)) if augmented else None
    kept = Kept(frames, (90, 160), 1.6, progress=False)
    assert kept.frames == frames and len(kept.block) == size_of_all(frames, (90, 160), 1.6) == 8 * 90 * 160 * 3
    pastes = [
        Paste(frames, CLASS_NAMES, 1.0, False, **how) if augmented else None for how in ({}, {'load_picture': kept})
    ]
    on_disk = Frames(frames, CLASS_NAMES, transform, paste=pastes[0])
    in_memory = Frames(kept.frames, CLASS_NAMES, transform, paste=pastes[1], load_picture=kept)
    before = kept.block.clone()
    for index in range(len(frames)):
        assert equal(values(on_disk[1, index]), values(in_memory[1, index]))
    assert torch.equal(kept.block, before), 'augmentation changes copies'


def test_frames_are_kept_as_large_as_training_shows_them(tmp_path):
    frame = Sample(tmp_path / 'a.png', 1080, 1920)
    assert kept_size(frame, (360, 640), 1.0) == (360, 640)
    assert kept_size(frame, (360, 640), 1.5) == (540, 960)
    assert kept_size(frame, (360, 640), 10.0) == (1080, 1920)
    assert kept_size(replace(frame, height=1920, width=1080), (360, 640), 1.0) == (640, 360)  # the window may turn
    assert kept_size(replace(frame, height=1, width=9000), (360, 640), 1.0) == (1, 640)


def test_all_of_a_frame_becomes_smaller(tmp_path):
    image = np.zeros((80, 120, 3), np.uint8)
    image[20:60, 30:90] = 255
    cv2.imwrite(str(tmp_path / 'a.png'), image)
    mask = (image[None, :, :, 0] > 0).astype(np.uint8)
    boxes = np.float32([[30, 20, 90, 60]])
    frame = Sample(tmp_path / 'a.png', 80, 120, boxes, ['A'], ignored=boxes / 2, masks=masks.encode(mask))
    kept = Kept([frame], (40, 60), 1.0, progress=False)
    (one,) = kept.frames
    assert (one.height, one.width) == (40, 60) and one.boxes.tolist() == [[15, 10, 45, 30]]
    assert one.ignored.tolist() == [[7.5, 5, 22.5, 15]] and frame.boxes.tolist() == boxes.tolist()
    small = masks.decode(one.masks, (40, 60))[0].numpy()
    np.testing.assert_array_equal(small.astype(bool), kept(frame.path)[..., 0].numpy() > 127)
    assert resized(replace(frame, masks=None), (40, 60)).masks is None


def test_batches_change_colour_as_torchvision_changes_one_picture():
    ways = {'brightness': TF.adjust_brightness, 'contrast': TF.adjust_contrast, 'saturation': TF.adjust_saturation}
    ways['hue'] = TF.adjust_hue
    colour, target = Colour(0.4, 0.2), {}
    torch.manual_seed(0)
    images = torch.randint(256, (40, 3, 24, 32), dtype=torch.uint8)
    drawn = [colour.draw(target)[0] for _ in images]
    assert None in drawn and any(one and one[-1] == ('saturation', 0.0) for one in drawn)
    assert len({tuple(kind for kind, _ in one) for one in drawn if one}) > 15, 'each in its own order'
    changed = colour.apply(images.clone(), drawn)
    assert changed.dtype == torch.uint8
    for image, result, one in zip(images, changed, drawn, strict=True):
        expected = image
        for kind, factor in one or ():
            expected = ways[kind](expected, factor)
        difference = (result.int() - expected.int()).abs()
        assert difference.float().mean() < 0.1 and difference.max() <= 3, one
        (alone,) = colour.apply(image[None].clone(), [one]) if one else (image,)
        assert torch.equal(alone, result), 'whatever else is in the batch'


EVERYTHING = {'hue': 0.1, 'random_erasing': 0.7, 'turn': True}


def all_of(frames, kept, with_mosaic=False):
    """`Frames` with all augmentation, at two stages."""
    paste = Paste(frames, CLASS_NAMES, 0.7, False, load_picture=kept)
    transforms = [training_transform(hw, **EVERYTHING) for hw in ((48, 80), (90, 160))]
    return Frames(kept.frames, CLASS_NAMES, transforms, with_mosaic, 3, paste=paste, load_picture=kept)


@pytest.mark.parametrize('with_mosaic', [False, True])
def test_a_batch_is_its_samples(frames, with_mosaic):
    kept = Kept(frames, (90, 160), 1.6, progress=False)
    dataset = all_of(frames, kept, with_mosaic)
    keys = [[(epoch, index, stage) for index in range(8)] for epoch in range(3) for stage in (0, 1)]
    loader = torch.utils.data.DataLoader(Plans(dataset), batch_sampler=keys, collate_fn=collate_plans)
    before, n_pasted = kept.block.clone(), 0
    for some, (images, targets) in zip(keys, OnDevice(loader, dataset, torch.device('cpu')), strict=True):
        for key, image, target in zip(some, images, targets, strict=True):
            assert equal(values((image, target)), values(dataset[key])) and target['image_id'] == key[1]
            n_pasted += len(target['boxes']) > len(frames[key[1]].boxes)
    assert n_pasted and torch.equal(kept.block, before)


def test_a_gpu_is_asked_for_nothing(frames):
    """On tensors of a GPU that have no values: what would have to wait for values, or mixes devices, raises."""
    kept = Kept(frames, (90, 160), 1.6, progress=False)
    dataset = all_of(frames, kept, with_mosaic=True)
    plans, outlines, targets = collate_plans([Plans(dataset)[epoch, i, 1] for epoch in range(4) for i in range(8)])
    assert pasted_in(plans)
    with FakeTensorMode(allow_non_fake_inputs=True):
        kept.block = torch.empty(kept.block.shape, dtype=torch.uint8, device='cuda')
        (batch,) = OnDevice(Batches([(plans, outlines, targets)]), dataset, torch.device('cuda'))
        images, moved = engine.floats_on(batch[0], 'cuda'), engine.targets_on(batch[1], 'cuda')
        images = [FrameTransform((90, 160), 32).normalize(image) for image in images]
        with pytest.raises(DataDependentOutputException):
            images[0].max().item()
    assert {str(image.device) for image in images} == {'cuda:0'} == {str(t['boxes'].device) for t in moved}
    assert [len(target['labels']) for target in moved] == [len(target['labels']) for target in targets]


class Batches(list):
    batch_sampler = None


def test_pictures_of_two_shapes_are_a_list(tmp_path):
    for name, hw in (('a', (40, 60)), ('b', (60, 40))):
        cv2.imwrite(str(tmp_path / f'{name}.png'), np.zeros((*hw, 3), np.uint8))
    frames = [Sample(tmp_path / 'a.png', 40, 60), Sample(tmp_path / 'b.png', 60, 40)] * 2
    kept = Kept(frames, (40, 60), 1.0, progress=False)
    dataset = Frames(kept.frames, ['A'], training_transform((40, 60), turn=True), load_picture=kept)
    images = dataset.pictures([dataset.plan(i)[0] for i in range(4)])
    assert [tuple(image.shape) for image in images] == [(3, 40, 60), (3, 60, 40)] * 2
    assert [tuple(image.shape) for image in engine.floats_on(images, 'cpu')] == [(3, 40, 60), (3, 60, 40)] * 2
    assert isinstance(collate([dataset[0], dataset[1]])[0], list) and collate([dataset[0]])[0].shape == (1, 3, 40, 60)


def command(dataset, run, *more):
    places = (f'konohana_dataset_path={dataset}', f'checkpoint_path={run}', f'log_path={run / "logs"}')
    small = ('img_hw=64,96', 'batch_size=4', 'num_workers=0', 'val_split=', 'paste=1.0')
    return '_train.py', *places, *small, *more


def weights(folder):
    return checkpoint.load(folder / 'net.pt')['model']


def test_training_with_kept_frames_resumes_to_the_same_weights(run_script, toy_dataset, tmp_path, monkeypatch):
    options, step = ('n_epoch=2', 'scale=0.8,2', 'save_minutes=0.0'), engine.train_step

    def stops(run, *given):
        if run.iteration == 3:
            raise UserError('the power is gone')
        return step(run, *given)

    for place, more in (('no', ()), ('ram', ('num_workers=1',)), ('gpu', ())):
        if place == 'gpu':
            # As on a GPU, but there is none.
            monkeypatch.setattr(data, 'choose_keeping', lambda settings, *_: setattr(settings, 'keep_frames', 'gpu'))
        keep = '' if place == 'gpu' else place
        again = command(toy_dataset, tmp_path / place, *options, *more, f'keep_frames={keep}')
        if place != 'no':
            monkeypatch.setattr(engine, 'train_step', stops)
            done = run_script(*again)
            assert done.returncode == 2 and 'the power is gone' in done.stderr
            monkeypatch.setattr(engine, 'train_step', step)
        done = run_script(*again)
        assert done.returncode == 0 and ('Resuming at epoch 2, iteration 3' in done.stdout) == (place != 'no')
    read_each = weights(tmp_path / 'no')
    for place in ('ram', 'gpu'):
        assert all(torch.equal(read_each[key], value) for key, value in weights(tmp_path / place).items())


@pytest.mark.parametrize(
    ('choice', 'device', 'ram', 'gpu', 'expected'),
    [
        ('', 'cpu', 6, 0, 'ram'),
        ('', 'cpu', 5.9, 0, 'no'),
        ('', 'mps', 6, 0, 'ram'),
        ('', 'cuda', 1000, 5.6, 'gpu'),  # a step of 16 takes as much as 2560 frames
        ('', 'cuda', 1000, 5.5, 'ram'),
        ('', 'cuda', 5.9, 5.5, 'no'),
        ('gpu', 'cuda', 3.1, 3.1, 'gpu'),
        ('ram', 'cpu', 3.1, 0, 'ram'),
        ('no', 'cuda', 1000, 1000, 'no'),
        ('gpu', 'cuda', 1000, 2.9, 'the 3000 frames take 2.07 GB, and there are 691.20 GB (ram) and 2.00 GB (gpu)'),
        ('gpu', 'cuda', 2.9, 1000, '2.00 GB (ram) and 691.20 GB (gpu)'),
        ('ram', 'cuda', 2.9, 1000, "keep_frames='ram': the 3000 frames take 2.07 GB"),
        ('gpu', 'cpu', 1000, 1000, "Take 'ram' or 'no'"),
    ],
)
def test_where_frames_are_kept(monkeypatch, tmp_path, choice, device, ram, gpu, expected):
    """Memory in thousands of frames; there are three."""
    thousand = 1000 * 360 * 640 * 3
    monkeypatch.setattr(data, 'free_ram', lambda: int(ram * thousand))
    monkeypatch.setattr(data, 'free_gpu_memory', lambda *_: int(gpu * thousand))
    settings = read(vars(_train), [f'keep_frames={choice}', 'img_hw=360,640'])
    frames = [Sample(tmp_path / 'a.png', 360, 640)] * 3000
    if expected in ('no', 'ram', 'gpu'):
        data.choose_keeping(settings, frames, torch.device(device))
        assert settings.keep_frames == expected
        return
    with pytest.raises(UserError) as error:
        data.choose_keeping(settings, frames, torch.device(device))
    assert expected in str(error.value) and '\n' not in str(error.value)


def test_a_gpu_has_what_its_cap_leaves(monkeypatch):
    monkeypatch.setattr(torch.cuda, 'mem_get_info', lambda device: (5 * 2**30, 8 * 2**30))
    monkeypatch.setattr(torch.cuda, 'memory_reserved', lambda device: 2**30)
    assert free_gpu_memory('cuda', 3.0) == 1.5 * 2**30
    assert free_gpu_memory('cuda', 0) == 5 * 2**30
    assert free_gpu_memory('cuda', 1.0) == 0


def test_frames_that_do_not_fit_are_one_line(run_script, toy_dataset, tmp_path, monkeypatch):
    monkeypatch.setattr(data, 'free_ram', lambda: 100_000)
    done = run_script(*command(toy_dataset, tmp_path, 'n_epoch=1', 'keep_frames=ram'))
    line = "Error: keep_frames='ram': the 8 frames take 0.00 GB, and there are 0.00 GB (ram)."
    assert done.returncode == 2 and done.stderr.startswith(line) and len(done.stderr.strip().splitlines()) == 1
    for choice, said in (('disk', "keep_frames='disk'"), ('gpu', 'training runs on the CPU')):
        done = run_script(*command(toy_dataset, tmp_path, 'n_epoch=1', f'keep_frames={choice}', 'device=cpu'))
        assert done.returncode == 2 and said in done.stderr, done.stderr
