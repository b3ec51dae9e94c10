"""A network learns from a trained one: what is compared, that it comes nearer, and a teacher that does not fit."""

import pytest
import torch
from conftest import IMG_HW, make_weights

from konohana import detectors
from konohana.cast import CLASS_NAMES
from konohana.distillation import Teacher
from konohana.losses import features_apart, teacher_losses
from konohana.settings import UserError

NAMES = list(CLASS_NAMES)


def student():
    torch.manual_seed(1)
    return detectors.build('konohana', len(NAMES), IMG_HW).train()


def batch():
    torch.manual_seed(2)
    images = [torch.rand(3, *IMG_HW) for _ in range(2)]
    targets = [{'boxes': torch.tensor([[8.0, 8.0, 48.0, 56.0]]), 'labels': torch.tensor([1])} for _ in images]
    return images, targets


@pytest.fixture
def teacher_file(tmp_path):
    """A weights file of an untrained flagship with stem_stride=2, in which there are detections."""
    torch.manual_seed(0)
    model = detectors.build('konohana', len(NAMES), IMG_HW, stem_stride=2)
    with torch.no_grad():
        model.find_layer.bias[0] = 2.0
        model.find_layer.weight *= 20
        model.name_layer.weight *= 50
    path = tmp_path / 'teacher 花.pt'
    make_weights(path, model=model.state_dict(), options={'stem_stride': 2})
    return path


def test_a_view_fits_the_cells_of_the_one_who_learns(teacher_file):
    model = student()
    teacher = Teacher(teacher_file, model, NAMES, torch.device('cpu'), amp=False)
    images, targets = batch()
    seen = teacher.look(images, targets)
    cells = IMG_HW[0] // 8 * IMG_HW[1] // 8
    for target, before in zip(seen, targets, strict=True):
        view = target['teacher']
        assert torch.equal(target['boxes'], before['boxes']) and 'teacher' not in before
        assert view['confidence'].shape == (cells,) and view['boxes'].shape == (cells, 4)
        assert 0 < view['confidence'].min() and view['confidence'].max() < 1
        assert torch.allclose(view['names'].sum(dim=1), torch.ones(cells))
        assert view['features'].shape[1:] == (IMG_HW[0] // 8, IMG_HW[1] // 8)
        assert not any(value.requires_grad for value in view.values())
    # A change of the training's size is the teacher's too.
    model.transform.set_size((32, 48))
    assert teacher.look(images, targets)[0]['teacher']['confidence'].shape == (4 * 6,)


def test_the_loss_reaches_every_weight_and_falls(teacher_file):
    model = student()
    teacher = Teacher(teacher_file, model, NAMES, torch.device('cpu'), amp=False)
    images, targets = batch()
    seen = teacher.look(images, targets)
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3)
    values = []
    for step in range(30):
        losses = model(images, seen)
        loss = losses['loss_teacher']
        optimizer.zero_grad()
        loss.backward()
        if step == 0:
            # The quality is learned from labels alone: it says how well one's own boxes fit.
            assert model.find_layer.weight.grad[1].abs().sum() == 0
            assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())
        optimizer.step()
        values.append(loss.item())
    assert values[-1] < 0.7 * values[0], values
    assert 'loss_teacher' not in model(images, targets)


def test_who_sees_the_same_has_nothing_to_learn():
    points, names = 6, 3
    torch.manual_seed(0)
    features = torch.randn(1, 4, 2, 3)
    boxes = torch.tensor([[4.0, 4.0, 20.0, 20.0]]).repeat(points, 1)
    sure = torch.tensor([0.0, 0.0, 1.0, 1.0, 0.0, 0.0])
    of = torch.eye(names)[torch.tensor([0, 1, 2, 0, 1, 2])]
    targets = [{'teacher': {'confidence': sure, 'names': of, 'boxes': boxes, 'features': features[0]}}]

    def loss(confidence, box, name, feature):
        seen = {'confidence': confidence[None], 'boxes': box[None], 'names': name[None], 'features': feature}
        return float(teacher_losses(seen, targets, [(32, 32)])['loss_teacher'])

    same = ((sure - 0.5) * 40, boxes, of * 40, features * 3 + 1)
    assert loss(*same) < 1e-3
    for i, other in enumerate((-same[0], boxes + 3, -same[2], torch.randn(1, 4, 2, 3))):
        assert loss(*same[:i], other, *same[i + 1 :]) > 0.3
    # Where the teacher sees nobody it has no say in boxes and names.
    far, else_names = boxes.clone(), same[2].clone()
    far[:2] += 9
    else_names[:2] *= -1
    assert loss(same[0], far, else_names, same[3]) < 1e-3


def test_features_are_compared_by_where_they_are_strong():
    torch.manual_seed(0)
    a = torch.randn(2, 3, 5, 7)
    assert float(features_apart(a, a * 4 + 2)) == pytest.approx(0, abs=1e-5)
    assert float(features_apart(a, -a)) == pytest.approx(2, abs=1e-5)
    assert float(features_apart(a, torch.randn(2, 3, 5, 7))) == pytest.approx(1, abs=0.3)
    assert torch.isfinite(features_apart(torch.zeros(1, 2, 3, 3), a[:1, :2, :3, :3]))


def test_a_teacher_that_does_not_fit_is_one_line(tmp_path, teacher_file):
    with pytest.raises(UserError, match=r'it learned the names .* Train a teacher on the same data\.'):
        Teacher(teacher_file, student(), NAMES[:-1], torch.device('cpu'))
    with pytest.raises(UserError, match='no-such'):
        Teacher(tmp_path / 'no-such.pt', student(), NAMES, torch.device('cpu'))
    other = detectors.build('yolof', len(NAMES), IMG_HW, backbone='resnet18')
    make_weights(tmp_path / 'yolof.pt', model=other.state_dict(), detector='yolof', options={'backbone': 'resnet18'})
    with pytest.raises(UserError, match="a teacher is a flagship, detector=konohana, but this is a 'yolof'"):
        Teacher(tmp_path / 'yolof.pt', student(), NAMES, torch.device('cpu'))


def test_train_teaches_and_resumes(tmp_path, toy_dataset, run_script):
    settings = (f'konohana_dataset_path={toy_dataset}', f'log_path={tmp_path / "logs"}', 'img_hw=64,96', 'batch_size=4')
    settings += ('num_workers=0', 'val_split=', 'n_epoch=1')
    done = run_script('_train.py', *settings, 'stem_stride=2', 'run_name=large')
    assert done.returncode == 0, done.stderr
    teacher = f'teacher={tmp_path / "logs" / "large" / "net.pt"}'
    for n_epoch in (1, 2):
        done = run_script('_train.py', *settings[:-1], f'n_epoch={n_epoch}', teacher, 'run_name=small')
        assert done.returncode == 0, done.stderr
        assert f'Epoch {n_epoch}/{n_epoch}' in done.stdout and 'loss_teacher' in done.stdout
    assert 'Resuming at epoch 2' in done.stdout
    done = run_script('_train.py', *settings, teacher, 'detector=yolof', 'run_name=other')
    assert done.returncode == 2 and 'only the flagship' in done.stderr and 'Traceback' not in done.stderr
