"""The second look: names from two opinions, in torch, in faster runtimes and in an exported file."""

import pytest
import torch
from conftest import IMG_HW, untrained_state

import konohana
from konohana import checkpoint, detectors
from konohana.cast import CLASS_NAMES
from konohana.data.images import save_image
from konohana.detectors.konohana.naming import look_again, resized_crops
from konohana.detectors.konohana.second_look import SIDE, crop
from konohana.episodes.watch import watch
from konohana.evaluation.predict import predict
from konohana.naming import LOOK_FROM, SURE, fused, renamed
from konohana.onnx import runtime
from konohana.toy.writer import draw_frame, write_video


@pytest.fixture(scope='module')
def looking(tmp_path_factory):
    """A weights file of an untrained flagship with a second look, by which people are found and named."""
    torch.manual_seed(1)
    model = detectors.build('konohana', len(CLASS_NAMES), IMG_HW, second_look=True)
    model.load_state_dict(untrained_state(), strict=False)
    with torch.no_grad():
        model.find_layer.bias[:2] = 4.0
        model.name_layer.weight *= 10
    path = tmp_path_factory.mktemp('look') / 'net.pt'
    content = {
        'model': model.state_dict(),
        'detector': 'konohana',
        'options': {'second_look': True},
        'class_names': list(CLASS_NAMES),
        'img_hw': list(IMG_HW),
    }
    checkpoint.save(content, path)
    return path


def picture(hw=IMG_HW):
    return torch.from_numpy(draw_frame(1, hw)['image']).permute(2, 0, 1)


def found_by(path, image, backend='torch', **options):
    return predict(konohana.load(path, 'cpu', backend=backend, **options), [image])[0]


def test_names_follow_both_opinions(looking):
    without = detectors.build('konohana', len(CLASS_NAMES), IMG_HW)
    model = konohana.load(looking, 'cpu')
    without.load_state_dict(
        {k: v for k, v in checkpoint.load(looking)['model'].items() if not k.startswith('second_look')}
    )
    (before,), (after,) = (predict(m, [picture()]) for m in (without.eval(), model))
    assert model.looks_again and not without.looks_again and 'embeddings' not in before
    seen = after['embeddings'].norm(dim=1) > 0
    assert seen.any() and torch.allclose(after['embeddings'][seen].norm(dim=1), torch.ones(int(seen.sum())))
    chosen = (before['scores'] >= LOOK_FROM) & (before['probabilities'].amax(dim=1) < SURE)
    assert int(seen.sum()) == int(chosen.sum())
    assert (after['scores'].diff() <= 0).all()
    assert torch.equal(after['labels'], after['probabilities'].argmax(dim=1) + 1)
    assert torch.allclose(after['probabilities'].sum(dim=1), torch.ones(len(seen)), atol=1e-5)
    assert not torch.allclose(before['probabilities'], after['probabilities'])
    assert torch.allclose(before['boxes'].sum(), after['boxes'].sum(), rtol=1e-4)  # the same, in another order


def test_who_is_not_looked_at_keeps_its_name():
    found = {
        'boxes': torch.tensor([[0.0, 0, 9, 9], [20, 20, 30, 30]]),
        'labels': torch.tensor([1, 2]),
        'scores': torch.tensor([0.9, LOOK_FROM / 2]),
        'probabilities': torch.tensor([[0.6, 0.4], [0.1, 0.9]]),
    }
    sure = lambda picture, boxes: (torch.ones(len(boxes), 64) / 8, torch.tensor([[-9.0, 9]] * len(boxes)))  # noqa: E731
    again = look_again(found, (40, 40), torch.zeros(3, 40, 40), sure)
    assert again['labels'].tolist() == [2, 2]
    assert torch.equal(again['probabilities'][1], found['probabilities'][1])
    assert again['embeddings'][1].abs().sum() == 0
    found['probabilities'] = torch.tensor([[0.99, 0.01], [0.1, 0.9]])
    of_all = look_again(found, (40, 40), torch.zeros(3, 40, 40), sure, everyone=True)
    assert (
        of_all['labels'].tolist() == [1, 2] and of_all['embeddings'][0].abs().sum() > 0
    )  # the name of a sure one stays
    assert look_again(found, (40, 40), torch.zeros(3, 40, 40), None)['embeddings'].abs().sum() == 0
    nobody = look_again({k: v[:0] for k, v in found.items()}, (40, 40), torch.zeros(3, 40, 40), None)
    assert nobody['embeddings'].shape == (0, 64)


def test_weight_of_the_opinions_and_order_of_scores():
    a, b = torch.tensor([[0.9, 0.1]]), torch.tensor([[0.2, 0.8]])
    assert torch.allclose(fused(a, b, 0.0), a) and torch.allclose(fused(a, b, 1.0), b)
    found = {
        'boxes': torch.arange(8.0).reshape(2, 4),
        'labels': torch.tensor([1, 1]),
        'scores': torch.tensor([0.8, 0.7]),
        'probabilities': torch.tensor([[0.9, 0.1], [0.9, 0.1]]),
        'embeddings': torch.ones(2, 3),
        'quality': torch.zeros(3, 5),
    }
    again = renamed(found, torch.tensor([[0.3, 0.2], [0.1, 0.9]]))
    assert again['labels'].tolist() == [2, 1] and again['boxes'][0].tolist() == [4, 5, 6, 7]
    assert again['scores'].tolist() == pytest.approx([0.7, 0.8 * (0.3 / 0.9) ** 0.25])
    assert again['quality'].shape == (3, 5)


@pytest.mark.parametrize('box', [(10, 5, 70, 50), (-8, -9, 30, 20), (60, 30, 96, 64), (5.4, 5.6, 5.9, 6.1)])
def test_crops_by_resizing_are_those_of_roi_align(box):
    image = picture().float() / 255
    boxes = torch.tensor([box], dtype=torch.float32)
    expected, found = crop(image, boxes), resized_crops(image, boxes)
    assert expected.shape == found.shape == (1, 3, SIDE, SIDE)
    assert (expected - found).abs().mean() < 0.03


@pytest.mark.parametrize('box', [(0, 0, 1600, 900), (700, 0, 800, 900)])
def test_crops_of_large_pictures_show_every_pixel(box):
    torch.manual_seed(0)
    image, boxes = torch.rand(3, 900, 1600), torch.tensor([box], dtype=torch.float32)
    expected, found = crop(image, boxes), resized_crops(image, boxes)
    assert (expected - found).abs().mean() < 0.04
    assert found.std() < 0.15  # that of single pixels is 0.29


@pytest.mark.parametrize('backend', ['onnxruntime', 'openvino'])
def test_runtimes_agree_with_torch(looking, backend, monkeypatch):
    pytest.importorskip('onnx')
    pytest.importorskip(backend)
    image = picture()
    expected, found = found_by(looking, image), found_by(looking, image, backend)
    far = runtime.differences(expected, found)
    assert far['box'] < 0.05 and far['score'] < 0.005 and far['unmatched'] == 0
    kept = sorted(path.name for path in looking.parent.glob('.net.*.onnx'))
    assert len(kept) == 1
    assert found_by(looking, torch.zeros_like(image), backend)['embeddings'].shape[1] == 64


def test_it_looks_at_the_larger_picture(looking):
    large = picture((IMG_HW[0] * 3, IMG_HW[1] * 3))
    small = torch.nn.functional.avg_pool2d(large.float() / 255, 3)
    model = konohana.load(looking, 'cpu')
    with torch.inference_mode():
        (blurred,), (sharp,) = model([small]), model([small], pictures=[large.float() / 255])
        (bytes_,) = model([small], pictures=[large])
    assert len(blurred['boxes']) == len(sharp['boxes'])
    assert not torch.allclose(blurred['embeddings'], sharp['embeddings'])
    assert torch.allclose(bytes_['embeddings'], sharp['embeddings'], atol=0.05)


def test_export_agrees_and_without_post_processing_is_refused(looking, tmp_path, run_script):
    pytest.importorskip('onnx')
    pytest.importorskip('onnxruntime')
    save_image(tmp_path / 'a.png', picture().permute(1, 2, 0).numpy())
    options = [f'weights={looking}', f'onnx_out={tmp_path / "n.onnx"}', f'pictures_in={tmp_path / "a.png"}']
    done = run_script('tools/export_onnx.py', *options)
    assert done.returncode == 0, done.stderr
    assert ' 0 without a counterpart' in done.stdout, done.stdout
    refused = run_script('tools/export_onnx.py', *options, 'post_processing=False')
    assert refused.returncode == 2 and refused.stderr.count('\n') == 1 and 'post_processing=True' in refused.stderr


def test_video_is_looked_at_in_full_resolution(looking, tmp_path, monkeypatch):
    path = tmp_path / 'large.mkv'
    write_video(path, seconds=0.5, fps=8, hw=(IMG_HW[0] * 3, IMG_HW[1] * 3), seed=3)
    model, seen = konohana.load(looking, 'cpu'), []
    look = model.look
    monkeypatch.setattr(model, 'look', lambda picture, boxes: seen.append(picture.shape) or look(picture, boxes))
    index, _ = watch(model, path, progress=False)
    assert seen and set(seen) == {(3, IMG_HW[0] * 3, IMG_HW[1] * 3)}
    assert len(index.frame) and index.box[:, 2:].max() > IMG_HW[1]  # in pixels of the video
