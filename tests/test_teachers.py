"""Learning from trained detectors besides the labels: what they say counts, and their files may be wrong."""

import pytest
import torch

from konohana import checkpoint, detectors
from konohana.detectors.konohana.assigner import TaskAlignedAssigner
from konohana.detectors.konohana.criterion import LABEL_SMOOTHING, detection_losses
from konohana.toy import writer
from konohana.training.teachers import Teachers

HW = (64, 96)
LABELLED = {'boxes': torch.tensor([[8.0, 8.0, 40.0, 56.0]]), 'labels': torch.tensor([2])}


@pytest.fixture
def predictions():
    """What a new network says of one picture, with gradients, somewhat off."""
    torch.manual_seed(0)
    xs, ys = torch.arange(12) * 8 + 4.0, torch.arange(8) * 8 + 4.0
    points = torch.stack(torch.meshgrid(xs, ys, indexing='xy'), dim=-1).reshape(-1, 2)
    boxes = LABELLED['boxes'] + torch.randn(len(points), 4)
    return {
        'objectness': torch.randn(1, len(points)).requires_grad_(),
        'quality': torch.zeros(1, len(points)),
        'names': torch.randn(1, len(points), 3).requires_grad_(),
        'boxes': boxes[None].requires_grad_(),
        'points': points,
    }


def losses_of(predictions, taught=None):
    return detection_losses(predictions, [LABELLED], TaskAlignedAssigner(), [HW], taught=taught)


def what_labels_say(predictions):
    """A teacher's opinion that is that of the labels."""
    boxes = predictions['boxes'].detach()
    _, soft = TaskAlignedAssigner()(
        predictions['objectness'][0].detach().sigmoid(), boxes[0], predictions['points'], LABELLED['boxes']
    )
    names = torch.full((1, len(soft), 3), LABEL_SMOOTHING / 3)
    names[..., 1] += 1 - LABEL_SMOOTHING
    return {'objectness': soft[None], 'names': names, 'boxes': LABELLED['boxes'].expand(1, len(soft), 4)}


def test_a_teacher_that_says_what_the_labels_say_changes_nothing(predictions):
    plain = losses_of(predictions)
    taught = losses_of(predictions, what_labels_say(predictions))
    for key, value in plain.items():
        torch.testing.assert_close(taught[key], value)


@pytest.mark.parametrize(
    ('key', 'loss', 'other'),
    [
        ('objectness', 'loss_objectness', lambda said: said * 0),
        ('names', 'loss_name', lambda said: said.roll(1, dims=-1)),
        ('boxes', 'loss_box', lambda said: said + torch.tensor([0.0, 0.0, 4.0, 4.0])),
    ],
)
def test_what_a_teacher_says_otherwise_is_learned(predictions, key, loss, other):
    """A step against the gradient comes nearer to what it says than a step by the labels alone."""
    said = what_labels_say(predictions)
    said[key] = other(said[key])

    def distance(taught):
        gradient = torch.autograd.grad(losses_of(predictions, taught)[loss], predictions[key])[0]
        stepped = predictions[key].detach() - 0.5 * gradient
        seen = {'objectness': stepped.sigmoid(), 'names': stepped.softmax(-1), 'boxes': stepped}[key]
        return (seen - said[key]).abs().sum()

    assert distance(said) < distance(None)


def test_a_teacher_that_sees_somebody_else_says_nothing_of_the_box(predictions):
    said = what_labels_say(predictions)
    said['boxes'] = said['boxes'] + torch.tensor([40.0, 0.0, 40.0, 0.0])
    torch.testing.assert_close(losses_of(predictions, said)['loss_box'], losses_of(predictions)['loss_box'])


def test_several_teachers_say_what_they_say_on_average():
    torch.manual_seed(0)
    models = [detectors.build('konohana', 3, HW).eval() for _ in range(2)]
    batch = torch.rand(2, 3, *HW) * 2 - 1
    both, *each = [Teachers(some)(batch) for some in (models, models[:1], models[1:])]
    for key, value in both.items():
        assert not value.requires_grad
        torch.testing.assert_close(value, (each[0][key] + each[1][key]) / 2)
    torch.testing.assert_close(both['names'].sum(dim=-1), torch.ones(2, 96))


# _train.py


@pytest.fixture(scope='module')
def dataset(tmp_path_factory):
    """Eight toy frames to train on, two to evaluate on, small."""
    folder = tmp_path_factory.mktemp('data') / 'show'
    writer.write_voc(folder, n_train=8, n_val=2, hw=(90, 160))
    return folder


@pytest.fixture
def train(run_script, dataset):
    """Function (folder of the run, *overrides) -> CompletedProcess of _train.py."""
    few = ('img_hw=64,96', 'batch_size=4', 'num_workers=0', 'paste=0', 'val_split=', 'n_epoch=1', 'second_look=False')
    return lambda folder, *more: run_script(
        '_train.py', f'konohana_dataset_path={dataset}', f'checkpoint_path={folder}', f'log_path={folder}', *few, *more
    )


def test_a_network_learns_from_a_larger_one_and_goes_on(train, tmp_path):
    assert train(tmp_path / 'teacher', 'large=True').returncode == 0
    assert train(tmp_path / 'alone').returncode == 0
    teachers = f'teachers={[str(tmp_path / "teacher" / "net.pt")]!r}'
    done = train(tmp_path / 'taught', teachers)
    assert done.returncode == 0 and 'Learning from' in done.stdout, done
    alone, taught = (checkpoint.load(tmp_path / name / 'net.pt') for name in ('alone', 'taught'))
    assert alone['model'].keys() == taught['model'].keys() and alone['options'] == taught['options']
    assert any(not torch.equal(value, taught['model'][key]) for key, value in alone['model'].items())
    again = train(tmp_path / 'taught', teachers, 'n_epoch=2')
    assert again.returncode == 0 and 'Resuming at epoch 2' in again.stdout, again


def test_teachers_that_cannot_teach_are_one_line(train, dataset, tmp_path):
    names = ['somebody', 'else']
    other = detectors.build('konohana', 2, HW)
    yolof = detectors.build('yolof', 2, HW, backbone='resnet18')
    for model, kind in ((other, 'konohana'), (yolof, 'yolof')):
        options = {'backbone': 'resnet18'} if kind == 'yolof' else {}
        content = {'model': model.state_dict(), 'detector': kind, 'options': options}
        checkpoint.save({**content, 'class_names': names, 'img_hw': list(HW)}, tmp_path / f'{kind}.pt')

    def line(*overrides):
        done = train(tmp_path / 'run', *overrides)
        assert done.returncode == 2 and done.stderr.count('\n') == 1, done
        return done.stderr

    def given(name):
        return f'teachers={[str(tmp_path / name)]!r}'

    assert 'this teacher knows somebody, else' in line(given('konohana.pt'))
    assert "a detector='yolof' cannot teach" in line(given('yolof.pt'))
    assert 'missing.pt' in line(given('missing.pt'))
    assert 'name weights files' in line("teachers=['']")
    assert 'takes such values' in line('teachers=[1]') and 'takes such values' in line('teachers=[None]')
    assert 'takes values in brackets' in line(f'teachers={tmp_path / "konohana.pt"}')
    assert 'cannot learn from others' in line(given('konohana.pt'), 'detector=yolof', 'backbone=resnet18')
