"""Cutting characters out of frames and pasting them into others."""

import cv2
import numpy as np
import pytest
import torch

from konohana import masks
from konohana.cast import IGNORE_CLASS
from konohana.data.coco import read_split as read_coco
from konohana.data.dataset import Frames
from konohana.data.paste import Paste, cut_out, grabcut_mask
from konohana.data.sample import Sample
from konohana.data.step import Steps
from konohana.data.voc import read_split as read_voc
from konohana.toy import writer

HW = (180, 320)


def painted(path, ellipses, background=(90, 160, 90)):
    """A frame with outlined ellipses (name, x1, y1, x2, y2, colour) before a striped background, and their masks."""
    image = np.full((*HW, 3), background, np.uint8)
    image[::12] = np.array(background) // 2
    drawn = []
    for _, x1, y1, x2, y2, colour in ellipses:
        shape = (((x1 + x2) / 2, (y1 + y2) / 2), (x2 - x1, y2 - y1), 0)
        cv2.ellipse(image, shape, colour, -1)
        cv2.ellipse(image, shape, (20, 20, 20), 2)
        drawn.append(cv2.ellipse(np.zeros(HW, np.uint8), shape, 1, -1))
    cv2.imwrite(str(path), image[..., ::-1])
    boxes = np.array([e[1:5] for e in ellipses], np.float32).reshape(-1, 4)
    return Sample(path, *HW, boxes, [e[0] for e in ellipses]), drawn


def pasted(paste, frame, names, seed, with_masks=False):
    dataset = Frames([frame], names, Steps([]), False, seed, with_masks, paste=paste)
    return dataset[0, 0]


def test_grabcut_finds_the_outline_in_a_box(tmp_path):
    frame, drawn = painted(tmp_path / 'a.png', [('A', 100, 40, 160, 150, (220, 60, 60))])
    (one,) = cut_out(frame)
    mask = masks.decode([one.rle], (110, 60))[0].numpy()
    truth = drawn[0][40:150, 100:160]
    assert (mask & truth).sum() / (mask | truth).sum() > 0.9
    assert (one.name, one.box, one.cut) == ('A', (100, 40, 160, 150), (False,) * 4)


def test_a_box_that_is_the_whole_frame_has_no_background():
    assert grabcut_mask(np.zeros((40, 60, 3), np.uint8), (0, 0, 60, 40)).all()


def test_who_cannot_be_cut_out(tmp_path):
    red = (220, 60, 60)
    ellipses = [
        ('tiny', 300, 2, 310, 40, red),
        ('head cut off', 10, 0, 60, 70, red),
        ('behind another', 120, 40, 190, 120, red),
        ('before another', 150, 60, 220, 140, (60, 60, 220)),
        ('both sides', 0, 150, 320, 180, red),
    ]
    frame, _ = painted(tmp_path / 'a.png', ellipses)
    assert cut_out(frame) == []
    assert cut_out(painted(tmp_path / 'b.png', [])[0]) == []
    # A region that is not counted may hold anybody.
    frame, _ = painted(tmp_path / 'c.png', [('A', 100, 40, 160, 150, red)])
    frame.ignored = np.array([[90, 30, 170, 100]], np.float32)
    assert cut_out(frame) == []


@pytest.mark.parametrize('side', [None, 'left', 'right', 'bottom'])
def test_pasted_pixels_are_where_the_box_says(tmp_path, side):
    x, y = {None: (100, 40), 'left': (-20, 40), 'right': (280, 40), 'bottom': (100, 120)}[side]
    box = (max(0, x), y, min(320, x + 60), min(180, y + 110))
    source, _ = painted(tmp_path / 'a.png', [('A', x, y, x + 60, y + 110, (220, 60, 60))])
    source.boxes = np.array([box], np.float32)
    paste = Paste([source], ['B', 'A'], 1.0, progress=False)
    assert len(paste.cut_outs) == 1
    into, _ = painted(tmp_path / 'b.png', [])
    places = set()
    for seed in range(12):
        image, target = pasted(paste, into, ['B', 'A'], seed)
        assert set(target['labels'].tolist()) == {2}  # one or two of the only cut-out
        red = (image[0].int() - image[1].int() > 60) & (image[0] > 150)
        covered = torch.zeros(HW, dtype=torch.bool)
        for x1, y1, x2, y2 in target['boxes'].int().tolist():
            places.add((x1, y1))
            assert 0 <= x1 < x2 <= 320 and 0 <= y1 < y2 <= 180
            assert red[y1:y2, x1:x2].float().mean() > 0.5
            covered[y1:y2, x1:x2] = True
            # Where the frame's edge cut the character off, it stays: nobody hangs in the air with half a body.
            assert side != 'bottom' or y2 == 180
            if side in ('left', 'right'):
                # The side that was cut off is its longest column, mirrored or not.
                columns = red[y1:y2].sum(dim=0)
                assert (x1 == 0 and columns[0] > 1.4 * columns[x2 - 4]) or (
                    x2 == 320 and columns[319] > 1.4 * columns[x1 + 3]
                )
        assert not red[~covered].any()
    assert len(places) > 3


def test_a_character_of_the_frame_is_not_hidden(tmp_path):
    source, _ = painted(tmp_path / 'a.png', [('A', 100, 20, 200, 170, (220, 60, 60))])
    # As large as the frame itself: whatever is pasted is before it, but never before most of it.
    blue = (60, 60, 220)
    into, _ = painted(tmp_path / 'b.png', [('A', 4, 4, 100, 176, blue), ('A', 220, 4, 316, 176, blue)])
    paste = Paste([source], ['A'], 1.0, progress=False)
    free = 0
    for seed in range(12):
        image, target = pasted(paste, into, ['A'], seed)
        assert target['boxes'][:2].tolist() == into.boxes.tolist()
        for x1, y1, x2, y2 in target['boxes'][:2].int().tolist():
            assert (image[2, y1:y2, x1:x2].int() - image[0, y1:y2, x1:x2].int() > 60).float().mean() > 0.2
        free += len(target['boxes']) > 2
    assert free


def test_the_rare_come_more_often_and_zero_means_never(tmp_path):
    frames = [
        painted(tmp_path / f'{i}.png', [('often' if i else 'rare', 100, 40, 160, 150, (220, 60, 60))])[0]
        for i in range(17)
    ]
    paste = Paste(frames, ['rare', 'often'], 1.0, progress=False)
    labels = [label for seed in range(150) for label in pasted(paste, frames[1], ['rare', 'often'], seed)[1]['labels']]
    rare = sum(label == 1 for label in labels) / (len(labels) - 150)
    assert 0.12 < rare < 0.3  # a fifth: 1 to the root of 16; it holds one cut-out of 17
    paste.p = 0.0
    assert len(pasted(paste, frames[1], ['rare', 'often'], 0)[1]['labels']) == 1
    nobody = Paste([painted(tmp_path / 'x.png', [])[0]], ['A'], 1.0, progress=False)
    assert len(pasted(nobody, frames[1], ['rare', 'often'], 0)[1]['labels']) == 1


def test_pictures_of_a_few_pixels(tmp_path):
    source, _ = painted(tmp_path / 'a.png', [('A', 100, 10, 140, 170, (220, 60, 60))])
    paste = Paste([source], ['A'], 1.0, progress=False)
    for hw in ((1, 1), (2, 3), (1, 300), (300, 1), (9, 2)):
        cv2.imwrite(str(tmp_path / 'small.png'), np.zeros((*hw, 3), np.uint8))
        for seed in range(12):
            image, target = pasted(paste, Sample(tmp_path / 'small.png', *hw), ['A'], seed)
            assert image.shape == (3, *hw) and len(target['boxes']) == len(target['labels']) <= 2


def test_masks_are_pasted_along(tmp_path):
    writer.write_coco(tmp_path / 'toy', n_train=6, n_val=1, hw=(180, 320), progress=False)
    frames, _ = read_coco(tmp_path / 'toy', 'train', IGNORE_CLASS, progress=False)
    names = sorted({name for frame in frames for name in frame.names})
    paste = Paste(frames, names, 1.0, progress=False)
    assert paste.cut_outs
    more = 0
    for i, frame in enumerate(frames[:6]):
        before = pasted(None, frame, names, i, with_masks=True)[1]
        image, target = pasted(paste, frame, names, i, with_masks=True)
        n = len(before['labels'])
        more += len(target['labels']) - n
        assert len(target['masks']) == len(target['boxes']) == len(target['labels'])
        assert target['masks'].shape[1:] == image.shape[1:]
        for mask, box in zip(target['masks'][n:], target['boxes'][n:], strict=True):
            x1, y1, x2, y2 = box.int().tolist()
            assert mask[y1:y2, x1:x2].float().mean() > 0.2
            assert mask.sum() == mask[y1:y2, x1:x2].sum() or len(target['masks']) > n + 1
        # What is behind a pasted character is no longer the other's.
        assert (target['masks'].sum(dim=0) <= before['masks'].sum(dim=0).clamp(min=1)).all()
    assert more


def test_a_sample_with_pasting_depends_on_the_seed_alone(toy_dataset):
    frames, _ = read_voc(toy_dataset, 'train', IGNORE_CLASS, progress=False)
    names = sorted({name for frame in frames for name in frame.names})
    one, other = (pasted(Paste(frames, names, 1.0, progress=False), frames[0], names, 3) for _ in range(2))
    assert torch.equal(one[0], other[0]) and torch.equal(one[1]['boxes'], other[1]['boxes'])


def test_training_with_pasting(tmp_path, toy_dataset, run_script):
    command = (
        '_train.py',
        f'konohana_dataset_path={toy_dataset}',
        f'checkpoint_path={tmp_path}',
        f'log_path={tmp_path}',
    )
    done = run_script(*command, 'img_hw=96,160', 'n_epoch=1', 'paste=0.8', 'mosaic=True', 'val_split=')
    assert done.returncode == 0, done.stderr
    assert (tmp_path / 'net.pt').is_file() and 'can be cut out' in done.stdout
    done = run_script(*command, 'paste=1.5')
    assert done.returncode != 0 and 'paste' in done.stdout + done.stderr and 'Traceback' not in done.stderr
