"""The second look: what it cuts out, what it learns, and that all else can stay as it is."""

import pytest
import torch

from konohana import checkpoint
from konohana.detectors import build
from konohana.detectors.konohana.second_look import SIDE, crop, second_look_loss


def model_with_it(n_classes=3):
    torch.manual_seed(0)
    return build('konohana', n_classes, (64, 96), second_look=True)


def test_crops_show_the_box_and_a_margin_as_far_as_the_picture_reaches():
    image = torch.zeros(3, 200, 300)
    image[:, 50:150, 100:200] = 1.0
    inside, corner = crop(image, torch.tensor([[100.0, 50, 200, 150], [0, 0, 100, 50]]))
    assert inside.shape == (3, SIDE, SIDE)
    edge = round(SIDE * 0.1 / 1.2)
    assert inside[:, : edge - 2].max() == 0 and inside[:, edge + 3 : -edge - 3, edge + 3 : -edge - 3].min() > 0.99
    assert corner[:, : SIDE * 8 // 10, : SIDE * 8 // 10].max() == 0 and corner[0, -1, -1] > 0.5


def test_large_boxes_are_averaged_not_skipped():
    stripes = torch.arange(1280).remainder(2).float().expand(3, 720, 1280)
    (seen,) = crop(stripes, torch.tensor([[0.0, 0, 1280, 720]]))
    assert (seen - 0.5).abs().max() < 0.1


def test_training_teaches_it_beside_the_rest():
    model = model_with_it().train()
    boxes = torch.tensor([[10.0, 10, 50, 50], [40, 5, 90, 60]])
    losses = model([torch.rand(3, 64, 96)], [{'boxes': boxes, 'labels': torch.tensor([1, 3])}])
    assert losses['loss_second_look'] > 0.5
    losses['loss_second_look'].backward()
    assert model.second_look.centres.grad.abs().sum() > 0 and model.backbone.stem[0][0].weight.grad is None


def test_frames_without_anybody_give_no_loss_and_no_error():
    model = model_with_it().train()
    empty = {'boxes': torch.zeros(0, 4), 'labels': torch.zeros(0, dtype=torch.int64)}
    loss = second_look_loss(model.second_look, torch.rand(2, 3, 64, 96), [empty, empty])
    loss.backward()
    assert loss == 0


@pytest.fixture
def train(run_script):
    return lambda *arguments: train_with(run_script, *arguments)


def one_line(done, *words):
    assert done.returncode == 2 and done.stderr.count('\n') == 1 and all(word in done.stderr for word in words), done


def test_strangers_are_a_little_more_likely_in_use_than_in_training():
    look = model_with_it().second_look
    look.set_names(['柚', 'other', '莲'])
    crops = torch.rand(2, 3, SIDE, SIDE)
    (_, plain), (_, careful) = model_with_it().second_look.eval()(crops), look.eval()(crops)
    assert torch.allclose(careful - plain, torch.tensor([0.0, 1.0, 0.0]), atol=1e-5)


def train_with(run_script, dataset, tmp_path, *arguments):
    small = ('img_hw=64,96', 'batch_size=4', 'num_workers=0', 'n_epoch=1', 'val_split=', 'paste=0')
    place = (f'konohana_dataset_path={dataset}', f'checkpoint_path={tmp_path}', f'log_path={tmp_path / "logs"}')
    return run_script('_train.py', *small, *place, *arguments)


def test_it_can_be_trained_alone_for_weights_that_are_there(train, toy_dataset, tmp_path):
    before = tmp_path / 'before'
    train(toy_dataset, before, 'second_look=False')
    done = train(toy_dataset, tmp_path, 'second_look=True', 'only_second_look=True', f'init_from={before / "net.pt"}')
    assert 'Its second look starts from' in done.stdout
    old, new = (checkpoint.load(path / 'net.pt')['model'] for path in (before, tmp_path))
    assert all(torch.equal(new[key], value) for key, value in old.items())
    assert any(key.startswith('second_look.') for key in new)


def test_alone_needs_weights_and_a_network_that_has_it(train, toy_dataset, tmp_path):
    one_line(train(toy_dataset, tmp_path, 'only_second_look=True', 'second_look=True'), 'init_from')
    one_line(train(toy_dataset, tmp_path, 'only_second_look=True', 'detector=yolof'), 'yolof')
    one_line(
        train(toy_dataset, tmp_path, 'second_look=False', 'only_second_look=True', 'init_from=weights/net.pt'),
        'second_look=True',
    )


def test_a_run_that_began_without_goes_on_without(train, toy_dataset, tmp_path):
    train(toy_dataset, tmp_path, 'second_look=False')
    done = train(toy_dataset, tmp_path, 'n_epoch=2')
    assert done.returncode == 0 and 'goes on without' in done.stdout and 'Resuming at' in done.stdout, done.stdout
    assert not any(key.startswith('second_look.') for key in checkpoint.load(tmp_path / 'net.pt')['model'])
