"""Curves of a run survive its interruptions and become pictures; the tool that draws several runs."""

import importlib.util
import io
import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision import tv_tensors

from konohana.data.augment import Erase, PhotometricTrivialAugment, training_transform
from konohana.errors import UserError
from konohana.training import curves, logs

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture
def tool(monkeypatch):
    """Function (*overrides): tools/plot_logs.py in this process, each time a module of its own."""
    spec = importlib.util.spec_from_file_location('plot_logs', ROOT / 'tools' / 'plot_logs.py')
    monkeypatch.setattr(sys, 'path', list(sys.path))

    def start(*arguments):
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        module.main(list(map(str, arguments)))
        return module

    return start


@pytest.fixture
def no_picture(monkeypatch):
    """Pictures of runs are not drawn: for tests of other things, which they would slow down."""
    monkeypatch.setattr(curves.History, 'draw', lambda self: None)


def write_run(folder, epochs, first=0, per_epoch=5, value=lambda i: 10.0 / i):
    """Log epochs `first` + 1 .. `epochs` as _train.py does, with metrics at every second."""
    with logs.Log(folder, first * per_epoch) as log:
        for epoch in range(first, epochs):
            for i in range(epoch * per_epoch + 1, (epoch + 1) * per_epoch + 1):
                log.scalar('train/loss', value(i), i)
                log.scalar('train/loss_box', value(i) / 2, i)
            metrics = {'AP': 0.1 * epoch, 'AP50': 0.2 * epoch} if epoch % 2 else None
            if metrics:
                log.scalar('val/AP', metrics['AP'], i)
            log.epoch(epoch + 1, i, {'loss_box': value(i) / 2, 'anything': 1.0, 'loss': value(i)}, metrics)


def test_history_and_picture_survive_resuming(tmp_path):
    folder = tmp_path / 'a run 花'
    write_run(folder, 3)
    first = (folder / 'curves.png').read_bytes()
    # Killed after epoch 3, with the weights of epoch 2 saved last.
    write_run(folder, 4, first=2, value=lambda i: 1000.0 + i)
    rows = [json.loads(line) for line in (folder / 'curves.jsonl').read_text(encoding='utf-8').splitlines()]
    assert [row['epoch'] for row in rows] == [1, 2, 3, 4]
    assert [row['iteration'] for row in rows] == [5, 10, 15, 20]
    assert rows[1]['losses']['loss'] == 1.0 and rows[2]['losses']['loss'] == 1015.0
    assert [row.get('AP50') for row in rows] == [None, 0.2, None, pytest.approx(0.6)]
    second = (folder / 'curves.png').read_bytes()
    assert first != second
    with Image.open(io.BytesIO(second)) as picture:
        assert picture.width > 1000 and picture.height > 400
    assert not list(folder.glob('*.tmp'))
    # A fresh run in the same folder begins anew.
    write_run(folder, 1)
    assert len((folder / 'curves.jsonl').read_text(encoding='utf-8').splitlines()) == 1


def test_curves_of_before_a_loss_was_renamed_go_on(tmp_path, no_picture):
    with logs.Log(tmp_path) as log:
        log.scalar('train/loss_confidence', 2.0, 1)
        log.epoch(1, 1, {'loss_confidence': 2.0, 'loss': 2.0})
    with logs.Log(tmp_path, iteration=1) as log:
        log.scalar('train/loss_objectness', 1.0, 2)
        log.epoch(2, 2, {'loss_objectness': 1.0, 'loss': 1.0})
        assert [row['losses']['loss_objectness'] for row in log.history.rows] == [2.0, 1.0]
    scalars = curves.read_events(tmp_path)
    assert scalars['train/loss_objectness'][:, [0, 2]].tolist() == [[1, 2.0], [2, 1.0]]
    assert 'train/loss_confidence' not in scalars


def test_an_epoch_written_down_twice_counts_once(tmp_path):
    """A run that is killed between its log and its save comes back to the same epoch."""
    history = curves.History(tmp_path)
    history.add(1, 3, {'loss': 2.0})
    history = curves.History(tmp_path, iteration=3)
    history.add(1, 3, {'loss': 2.0}, {'AP': 0.5, 'AP50': 0.75})
    rows = curves.History(tmp_path, iteration=3).rows
    assert len(rows) == 1 and rows[0]['AP'] == 0.5


def test_what_the_picture_shows(tmp_path, monkeypatch):
    seen = {}
    monkeypatch.setattr(curves, 'draw', lambda panels, x_title, ending='png': seen.update(panels, x=x_title) or b'')
    history = curves.History(tmp_path)
    history.add(1, 10, {'loss_box': 2.0, 'classification': 1.0, 'loss': 3.0})
    history.add(2.5, 25, {'loss_box': 1.0, 'loss': 2.0}, {'AP': 0.3, 'AP50': 0.5})
    history.add(3, 30, {'loss': 1.0}, {'AP': float('nan'), 'AP50': float('nan')})
    history.draw()
    assert seen.pop('x') == 'epoch'
    losses, quality = seen.values()
    assert losses == {
        'box': [(1, 2.0), (2.5, 1.0)],
        'classification': [(1, 1.0)],
        'all together': [(1, 3.0), (2.5, 2.0), (3, 1.0)],
    }
    assert quality == {'mAP@0.5': [(2.5, 0.5)], 'mAP@0.5:0.95': [(2.5, 0.3)]}


@pytest.mark.parametrize(
    'text',
    [
        *('{"epoch": 1, "iter', '[]', '{"epoch": 1, "iteration": 2, "losses": [1]}', '[' * 100_000),
        *('{"epoch": 1, "iteration": 2, "losses": {"loss": "low"}}', '{"epoch": 1, "iteration": "2", "losses": {}}'),
    ],
)
def test_damaged_history_is_one_line(tmp_path, text):
    (tmp_path / 'curves.jsonl').write_text(text, encoding='utf-8')
    with pytest.raises(UserError, match=r'curves.jsonl: damaged') as caught:
        curves.History(tmp_path, iteration=3)
    assert '\n' not in str(caught.value)


def test_a_dollar_in_a_runs_name_is_no_formula():
    points = [(0, 1.0), (1, 0.5)]
    assert curves.draw({'loss $_{': {'run $x_{$': points, 'other': points}}, 'epoch').startswith(b'\x89PNG')


def test_training_goes_on_without_matplotlib(tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, 'matplotlib', None)
    write_run(tmp_path, 3)
    told = capsys.readouterr().err
    assert told.count('pip install matplotlib') == 1
    assert not (tmp_path / 'curves.png').exists()
    assert len((tmp_path / 'curves.jsonl').read_text(encoding='utf-8').splitlines()) == 3
    with pytest.raises(UserError, match='pip install matplotlib'):
        curves.draw({'a': {'b': [(0, 1)]}}, 'epoch')


@pytest.mark.filterwarnings('error')
def test_names_in_chinese_and_gaps_are_drawn():
    points = [(0, 0.5), (1, float('nan')), (2, float('inf')), (3, 0.7)]
    drawn = curves.draw({'val_AP50/柚': {'柚': points, '莲': []}, 'nothing': {'a': []}}, 'epoch')
    with Image.open(io.BytesIO(drawn)) as picture:
        assert picture.format == 'PNG'


def test_events_are_read_as_they_were_logged(tmp_path, no_picture):
    write_run(tmp_path, 4)
    write_run(tmp_path, 6, first=2, value=lambda i: 1000.0 + i)
    assert len(list(tmp_path.glob('events*'))) == 2
    loss = curves.read_events(tmp_path)['train/loss']
    assert loss[:, 0].tolist() == list(range(1, 31))
    np.testing.assert_allclose(loss[:10, 2], 10.0 / np.arange(1, 11), rtol=1e-6)
    np.testing.assert_allclose(loss[10:, 2], 1000.0 + np.arange(11, 31), rtol=1e-6)
    assert (np.diff(loss[:, 1]) >= 0).all()


def test_tool_draws_runs_chosen_keys_and_axes(tool, tmp_path, monkeypatch, capsys, no_picture):
    write_run(tmp_path / 'x' / 'net', 3)
    write_run(tmp_path / 'y' / 'net', 2, per_epoch=10)
    picture = tmp_path / 'new folder' / 'curves 花.png'
    tool(f"runs=['{(tmp_path / 'x').as_posix()}', '{(tmp_path / 'y').as_posix()}']", f'picture_out={picture}')
    assert '2 panels of 2 runs' in capsys.readouterr().out  # train/loss and val/AP; AP50 was not logged
    with Image.open(picture) as image:
        image.load()

    seen = []
    monkeypatch.setattr(curves, 'draw', lambda panels, x_title, ending: seen.append((panels, x_title, ending)) or b'')
    both = f"runs=['{tmp_path.as_posix()}']"
    tool(both, "keys=['train/*']", f'picture_out={tmp_path / "a.SVG"}')
    panels, title, ending = seen.pop()
    assert list(panels) == ['train/loss', 'train/loss_box'] and (title, ending) == ('epoch', 'svg')
    assert set(panels['train/loss']) == {'x/net', 'y/net'}
    # Both learned from 0 to 3 and to 2 epochs, though at different iterations.
    np.testing.assert_allclose(panels['train/loss']['x/net'][:, 0], np.arange(1, 16) / 5)
    np.testing.assert_allclose(panels['train/loss']['y/net'][:, 0], np.arange(1, 21) / 10)
    tool(both, "keys=['val/AP']", 'against=iteration', 'smooth=0.9', f'picture_out={tmp_path / "a.pdf"}')
    assert seen.pop()[0]['val/AP']['x/net'].tolist() == [[10.0, pytest.approx(0.1)]]
    tool(both, "keys=['train/loss']", 'against=minutes', f'picture_out={tmp_path / "a.jpg"}')
    assert seen.pop()[0]['train/loss']['x/net'][:, 0].min() >= 0


def test_smoothing_has_no_pull_to_zero(tool, tmp_path, no_picture):
    write_run(tmp_path / 'net', 1)
    module = tool(f"runs=['{(tmp_path / 'net').as_posix()}']", f'picture_out={tmp_path / "a.png"}')
    np.testing.assert_allclose(module.smoothed([5.0] * 4, 0.9), 5.0)
    np.testing.assert_allclose(module.smoothed([0.0, 1.0], 0.5), [0.0, 2 / 3])
    np.testing.assert_allclose(module.smoothed([1.0, np.nan, 3.0], 0.0), [1.0, np.nan, 3.0])


def test_tool_with_wrong_values_is_one_line(tool, tmp_path, no_picture):
    write_run(tmp_path / 'net', 1)
    (tmp_path / 'empty').mkdir()
    good = f"runs=['{(tmp_path / 'net').as_posix()}']"
    for arguments, text in (
        ((f"runs=['{(tmp_path / 'nowhere').as_posix()}']",), 'no such folder'),
        ((f"runs=['{(tmp_path / 'empty').as_posix()}']",), 'no run there'),
        ((good, "keys=['val/nothing']"), 'Logged keys: epoch, train/loss'),
        ((good, 'against=weeks'), "against='weeks': it is one of 'epoch', 'iteration', 'minutes'"),
        ((good, 'picture_out=a.bmp'), 'png, jpg, svg, pdf'),
        ((good, 'smooth=2'), 'smooth=2'),
    ):
        with pytest.raises(UserError) as caught:
            tool(*arguments)
        assert text in str(caught.value) and '\n' not in str(caught.value)


# Augmentation that this issue adds.


def picture_and_target(n=3, hw=(60, 80)):
    image = tv_tensors.Image(torch.randint(0, 256, (3, *hw), dtype=torch.uint8))
    boxes = torch.tensor([[40.0, 30.0, 45.0, 35.0], [20.0, 10.0, 70.0, 55.0], [60.0, 2.0, 78.0, 20.0]])[:n]
    masks = torch.zeros(n, *hw, dtype=torch.uint8)
    for mask, (x1, y1, x2, y2) in zip(masks, boxes.int().tolist(), strict=True):
        mask[y1:y2, x1:x2] = 1
    return image, {
        'boxes': tv_tensors.BoundingBoxes(boxes, format='XYXY', canvas_size=hw),
        'labels': torch.arange(1, n + 1),
        'ignored': tv_tensors.BoundingBoxes(torch.zeros(0, 4), format='XYXY', canvas_size=hw),
        'masks': tv_tensors.Mask(masks),
    }


def test_trivial_augment_changes_no_geometry():
    torch.manual_seed(0)
    image, target = picture_and_target()
    names = set(PhotometricTrivialAugment().transform._AUGMENTATION_SPACE)
    assert names == {
        *('Identity', 'Brightness', 'Color', 'Contrast', 'Sharpness', 'Posterize', 'Solarize'),
        *('AutoContrast', 'Equalize'),
    }
    # A lone black dot on white is brightened, greyed or blurred, but it does not move.
    image = tv_tensors.Image(torch.full((3, 21, 21), 250, dtype=torch.uint8))
    image[:, 7, 12] = 5
    changed = 0
    for _ in range(40):
        result, same = PhotometricTrivialAugment()(image, target)
        assert same is target and result.shape == image.shape and result.dtype == torch.uint8
        changed += not torch.equal(result, image)
        away = (result.int() - result[:, :1, :1].int()).abs().sum(dim=0)
        if away.any():
            assert divmod(int(away.argmax()), 21) == (7, 12)
    assert changed > 10


def test_erase_hides_and_then_ignores():
    image, target = picture_and_target()
    torch.manual_seed(0)
    erased, kept = 0, 0
    for _ in range(80):
        result, after = Erase(1.0)(image, target)
        grey = (result == 127).all(dim=0)
        assert grey.any() and 0.01 < float(grey.float().mean()) < 0.25
        assert len(after['boxes']) + len(after['ignored']) == 3
        assert len(after['labels']) == len(after['masks']) == len(after['boxes'])
        hidden = (target['masks'].bool() & grey).flatten(1).sum(dim=1) / target['masks'].flatten(1).sum(dim=1)
        expected = target['labels'][hidden <= 0.75]
        assert after['labels'].tolist() == expected.tolist()
        erased, kept = erased + 3 - len(expected), kept + len(expected)
    assert erased > 3 and kept > 100
    same, unchanged = Erase(0.0)(image, target)
    assert same is image and unchanged is target
    empty_image, empty = picture_and_target(0)
    assert len(Erase(1.0)(empty_image, empty)[1]['boxes']) == 0


def test_augmentation_off_only_fits_the_frame():
    image, target = picture_and_target(hw=(60, 80))
    off = training_transform((60, 80), flip=0, scale=None, shift=False, colour=0)
    for _ in range(5):
        result, after = off(image, target)
        assert torch.equal(result, image) and torch.equal(after['boxes'], target['boxes'])
    torch.manual_seed(0)
    on = training_transform((60, 80), random_erasing=0.5, trivial_augment=True)
    assert any(not torch.equal(on(image, target)[0], image) for _ in range(3))
