"""Frames kept in memory are the frames on disk; colours change in batches as torchvision changes one picture."""

from dataclasses import replace

import cv2
import numpy as np
import pytest
import torch
from torchvision.transforms.v2 import functional as TF

from konohana import checkpoint, masks
from konohana.cast import CLASS_NAMES, IGNORE_CLASS
from konohana.data.augment import training_transform
from konohana.data.colour import Colour
from konohana.data.dataset import Frames
from konohana.data.kept import Kept, kept_size, resized, size_of_all
from konohana.data.paste import Paste
from konohana.data.sample import Sample
from konohana.data.voc import read_split
from konohana.errors import UserError
from konohana.training import data, engine


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


def command(dataset, run, *more):
    places = (f'konohana_dataset_path={dataset}', f'checkpoint_path={run}', f'log_path={run / "logs"}')
    small = ('img_hw=64,96', 'batch_size=4', 'num_workers=0', 'val_split=', 'paste=1.0')
    return '_train.py', *places, *small, *more


def weights(folder):
    return checkpoint.load(folder / 'net.pt')['model']


def test_training_with_kept_frames_resumes_to_the_same_weights(run_script, toy_dataset, tmp_path, monkeypatch):
    options = ('n_epoch=2', 'scale=0.8,2', 'save_minutes=0.0')
    done = run_script(*command(toy_dataset, tmp_path / 'disk', *options))
    assert done.returncode == 0, done.stderr
    step = engine.train_step

    def stops(run, *given):
        if run.iteration == 3:
            raise UserError('the power is gone')
        return step(run, *given)

    monkeypatch.setattr(engine, 'train_step', stops)
    keep = ('keep_frames=ram', 'num_workers=1')
    done = run_script(*command(toy_dataset, tmp_path / 'kept', *options, *keep))
    assert done.returncode == 2 and 'the power is gone' in done.stderr
    monkeypatch.setattr(engine, 'train_step', step)
    done = run_script(*command(toy_dataset, tmp_path / 'kept', *options, *keep))
    assert done.returncode == 0 and 'Resuming at epoch 2, iteration 3' in done.stdout, done.stderr
    kept = weights(tmp_path / 'kept')
    assert all(torch.equal(kept[key], value) for key, value in weights(tmp_path / 'disk').items())


def test_frames_that_do_not_fit_are_one_line(run_script, toy_dataset, tmp_path, monkeypatch):
    monkeypatch.setattr(data, 'free_ram', lambda: 100_000)
    done = run_script(*command(toy_dataset, tmp_path, 'n_epoch=1', 'keep_frames=ram'))
    line = "Error: keep_frames='ram': the 8 frames take 0.00 GB, and 0.00 GB are free."
    assert done.returncode == 2 and done.stderr.startswith(line) and len(done.stderr.strip().splitlines()) == 1
    done = run_script(*command(toy_dataset, tmp_path, 'n_epoch=1', 'keep_frames=disk'))
    assert done.returncode == 2 and "keep_frames='disk'" in done.stderr
