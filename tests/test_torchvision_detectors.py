"""torchvision's detectors under our contract: every name, its classes, sizes, masks, published weights, a whole run."""

import io
import urllib.error

import numpy as np
import pytest
import torch
from torch import nn
from torchvision import models

import konohana
from konohana import checkpoint, detectors
from konohana.data.images import fit_size
from konohana.detectors import hub, torchvision_detectors
from konohana.errors import UserError
from konohana.evaluation.predict import predict

NAMES = torchvision_detectors.box_detectors()
# One of each family, the smallest.
FAMILIES = (
    'fasterrcnn_mobilenet_v3_large_320_fpn',
    'fcos_resnet50_fpn',
    'retinanet_resnet50_fpn',
    'ssdlite320_mobilenet_v3_large',
    'maskrcnn_resnet50_fpn',
)
SSDLITE = 'ssdlite320_mobilenet_v3_large'
HW = (64, 96)


def make(detector, n_classes=3, img_hw=HW):
    """A small detector that looks at few regions, so that two stages cost little."""
    torch.manual_seed(0)
    network = detectors.build(detector, n_classes, img_hw)
    if hasattr(network.model, 'rpn'):
        network.model.rpn._pre_nms_top_n = network.model.rpn._post_nms_top_n = {'training': 20, 'testing': 20}
        network.model.roi_heads.batch_size_per_image = 8
    return network


def sample():
    """Two pictures of different sizes: one of two objects, with all keys a target may have, one of none."""
    images = [torch.rand(3, 90, 160), torch.rand(3, 50, 40)]
    masks = torch.zeros(2, 90, 160, dtype=torch.uint8)
    masks[0, 10:60, 10:60] = masks[1, 5:80, 5:100] = 1
    full = {
        'boxes': torch.tensor([[10.0, 10.0, 60.0, 60.0], [5.0, 5.0, 100.0, 80.0]]),
        'labels': torch.tensor([3, 1]),
        'ignored': torch.tensor([[100.0, 10.0, 150.0, 60.0]]),
        'masks': masks,
        'image_id': 3,
        'something else': 'text',
    }
    empty = {
        'boxes': torch.zeros(0, 4),
        'labels': torch.zeros(0, dtype=torch.int64),
        'ignored': torch.zeros(0, 4),
        'masks': torch.zeros(0, 50, 40, dtype=torch.uint8),
        'image_id': 4,
    }
    return images, [full, empty]


def favour(network, label):
    """Make the network sure that everything is of class `label`, and of no other."""
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            if name.startswith(network.class_layers) and 'bbox_pred' not in name and 'mask' not in name:
                parameter.zero_()
                if name.endswith('bias'):
                    parameter.fill_(-8.0)
                    parameter.view(-1, network.n_classes + 1)[:, label] = 8.0


@pytest.mark.parametrize('detector', FAMILIES)
def test_contract(detector):
    network = make(detector)
    images, targets = sample()
    losses = network.train()(images, targets)
    sum(losses.values()).backward()
    assert len(losses) >= 2 and all(loss.ndim == 0 and loss.isfinite() for loss in losses.values())
    # All frames empty: nothing is found, nothing breaks.
    losses = network(images[1:] * 2, targets[1:] * 2)
    assert all(loss.isfinite() for loss in losses.values())
    network.eval()
    for label in (1, 3):
        favour(network, label)
        found = predict(network, images)
        assert len(found) == 2
        for image, one in zip(images, found, strict=True):
            height, width = image.shape[-2:]
            n = len(one['boxes'])
            assert n and one['boxes'].shape == (n, 4) and set(one['labels'].tolist()) == {label}
            assert (one['scores'].diff() <= 0).all() and 0.5 < one['scores'][0] <= 1
            assert (one['boxes'] >= 0).all()
            assert (one['boxes'][:, 2:] > one['boxes'][:, :2]).all()  # none of the padding beside a smaller picture
            assert (one['boxes'] <= torch.tensor([width, height] * 2) * (1 + 1e-5)).all()
            assert one['boxes'][:, 2].max() > width / 2  # in pixels of this image, not of the network's
            assert ('masks' in one) == network.wants_masks == ('mask' in detector)
            if 'masks' in one:
                assert one['masks'].shape == (n, height, width) and one['masks'].dtype == torch.bool


@pytest.mark.parametrize('detector', FAMILIES[:4])
def test_label_k_of_training_is_label_k_of_testing(detector):
    """A network sure of class 3 is more wrong about an object of class 2 than about one of class 3."""
    network = make(detector).train()
    favour(network, 3)
    images, (target, _) = sample()
    loss_of = {}
    for label in (2, 3):
        torch.manual_seed(0)
        only = {**target, 'labels': torch.tensor([label, label])}
        with torch.no_grad():
            losses = network(images[:1] * 2, [only] * 2)
        loss_of[label] = float(next(v for k, v in losses.items() if 'class' in k))
    assert loss_of[3] < loss_of[2]


@pytest.fixture
def quick_start(monkeypatch):
    """Networks have shapes but no weights, whose making and first run would take a minute."""
    for name in dir(nn.init):
        if name.endswith('_') and not name.startswith('_'):
            monkeypatch.setattr(nn.init, name, lambda tensor, *_args, **_kwargs: tensor)
    with torch.device('meta'):
        yield


def test_backbone_parameters_are_the_backbones(quick_start):
    for detector in FAMILIES:
        network = detectors.build(detector, 3, (300, 300))
        ids = {id(parameter) for parameter in network.backbone_parameters()}
        names = {name.split('.')[1] for name, parameter in network.named_parameters() if id(parameter) in ids}
        assert names == {'backbone'}, detector


def test_class_layers_are_those_whose_shape_depends_on_the_classes(quick_start):
    for detector in NAMES:
        few, more = (detectors.build(detector, n, (300, 300)) for n in (3, 4))
        layers, state, other = few.class_layers, few.state_dict(), more.state_dict()
        depend = {key for key, value in state.items() if other[key].shape != value.shape}
        assert depend == {key for key in state if key.startswith(layers)}, detector
        assert any(name in detector for name in torchvision_detectors.BACKBONE_WEIGHTS)


@pytest.mark.parametrize('detector', ['fasterrcnn_mobilenet_v3_large_320_fpn', SSDLITE])
def test_size_inside_is_img_hw(detector):
    network = make(detector, img_hw=(96, 128)).eval()
    sizes = []
    network.model.backbone.register_forward_pre_hook(lambda _, inputs: sizes.append(tuple(inputs[0].shape[-2:])))
    predict(network, [torch.rand(3, 360, 640)])
    predict(network, [torch.rand(3, 640, 360)])
    # Faster R-CNN turns upright with the picture, and pads to multiples of 32.
    assert sizes == [(96, 128), (96, 128) if detector == SSDLITE else (128, 96)]
    for hw, upright in (((360, 640), False), ((640, 360), True)):
        resized, _ = network.transform.resize(torch.rand(3, *hw))
        expected = (96, 54) if upright and detector == SSDLITE else fit_size(*hw, (96, 128))
        assert tuple(resized.shape[-2:]) == expected


def test_ssd300_keeps_its_anchors_at_300_and_says_what_is_too_small(quick_start):
    assert detectors.build('ssd300_vgg16', 2, (300, 300)).model.anchor_generator.steps[0] == 8
    assert detectors.build('ssd300_vgg16', 2, (268, 400)).model.anchor_generator.steps is None
    with pytest.raises(UserError, match='at least 268'):
        detectors.build('ssd300_vgg16', 2, (267, 400))


def test_wrong_names_are_one_line():
    with pytest.raises(UserError, match='keypoints'):
        detectors.build('keypointrcnn_resnet50_fpn', 2, HW)
    with pytest.raises(UserError, match='no such detector') as caught:
        detectors.build('fasterrcnn', 2, HW)
    assert 'fasterrcnn_resnet50_fpn_v2' in str(caught.value) and 'konohana' in str(caught.value)
    assert 'keypoint' not in str(caught.value)
    with pytest.raises(UserError, match='no such detector'):
        detectors.options_of('fasterrcnn', {})


def test_options_of_takes_what_the_signature_has():
    settings = {'use_res2block': True, 'lr': 1.0, 'img_hw': HW}
    assert detectors.options_of('konohana', settings)['use_res2block'] is True
    assert not {'lr', 'img_hw', 'n_classes'} & set(detectors.options_of('konohana', settings))
    assert detectors.options_of('konohana', {})['use_res2block'] is False
    assert detectors.options_of('fasterrcnn_resnet50_fpn_v2', settings) == {}
    detectors.build('konohana', 2, HW, **detectors.options_of('konohana', settings))


@pytest.mark.parametrize(
    ('detector', 'options', 'said'),
    [
        ('solov2_light_r18', {'frozen_stages': 99}, 'frozen_stages=99: .* 0 to 4'),
        ('solov2_light_r18', {'frozen_stages': -1}, 'frozen_stages=-1: .* 0 to 4'),
        ('solov2_light_r18', {'frozen_stages': True}, 'frozen_stages=True: it takes a value like 1'),
        ('solov2_light_r18', {'norm_eval': 'no'}, "norm_eval='no': it takes a value like True"),
        ('konohana', {'use_res2block': 1}, 'use_res2block=1: it takes a value like False'),
        ('konohana', {'attention': ['se']}, 'attention=.*: it takes a value like .se.'),
        ('konohana', {'frozen_stages': 1}, "detector='konohana' has no such option"),
        ('fasterrcnn_resnet50_fpn', {'backbone': 'resnet18'}, 'has no such option'),
        ('yolof', {'backbone': None}, 'backbone=None: it takes a value like'),
        ('yolof', {'backbone': '../../etc/passwd'}, "backbone=.*: it is a network's name"),
        ('yolof', {'backbone': 'local-dir:/tmp'}, "backbone=.*: it is a network's name"),
        ('yolof', {'backbone': 'x' * 10**6}, "backbone=.*: it is a network's name"),
        (['konohana'], {}, 'it is the name of a detector'),
        (None, {}, 'it is the name of a detector'),
    ],
)
def test_wrong_options_are_one_short_line(detector, options, said):
    with pytest.raises(UserError, match=said) as caught:
        detectors.build(detector, 2, HW, **options)
    assert len(str(caught.value)) < 300 and '\n' not in str(caught.value)


def test_what_cannot_be_trained_is_one_line():
    images, targets = sample()
    with pytest.raises(UserError, match='batch_size=2'):
        make(SSDLITE).train()(images[:1], targets[:1])
    without = {key: value for key, value in targets[0].items() if key != 'masks'}
    with pytest.raises(UserError, match='learns masks'):
        make('maskrcnn_resnet50_fpn').train()(images[:1], [without])


@pytest.fixture
def no_network(monkeypatch, tmp_path):
    """An empty folder of published weights, and a network that is not there; returns the folder."""

    def refuse(url, *_args, **_kwargs):
        raise urllib.error.URLError('no route to host')

    monkeypatch.setattr(torch.hub, 'download_url_to_file', refuse)
    monkeypatch.setattr(torch.hub, 'get_dir', lambda: str(tmp_path / 'hub 花'))
    return tmp_path / 'hub 花' / 'checkpoints'


def test_without_network_it_says_which_file_and_where(no_network):
    network = make(SSDLITE)
    for pretrained, url in (
        (True, models.detection.SSDLite320_MobileNet_V3_Large_Weights.DEFAULT.url),
        ('backbone', models.MobileNet_V3_Large_Weights.IMAGENET1K_V1.url),
    ):
        with pytest.raises(UserError) as caught:
            network.load_pretrained(pretrained)
        text = str(caught.value)
        assert text.startswith(url.rpartition('/')[2] + ':') and url in text and str(no_network) in text
        assert 'no route to host' in text and '\n' not in text


def place(folder, url, state):
    folder.mkdir(parents=True, exist_ok=True)
    torch.save(state, folder / url.rpartition('/')[2])


def test_coco_weights_from_the_folder(no_network):
    """Everything is taken, but for the layers that name."""
    torch.manual_seed(1)
    published = models.get_model(SSDLITE, weights=None, weights_backbone=None, num_classes=91).state_dict()
    place(no_network, models.detection.SSDLite320_MobileNet_V3_Large_Weights.DEFAULT.url, published)
    # With 90 names even the class layer's shape would fit, and be of other names.
    for n_classes in (3, 90):
        network = make(SSDLITE, n_classes)
        before = {key: value.clone() for key, value in network.state_dict().items()}
        text = network.load_pretrained(True)
        assert 'COCO_V1' in text and 'head.classification_head.module_list' in text and '\n' not in text
        for key, value in network.state_dict().items():
            expected = before[key] if key.startswith(network.class_layers) else published[key.removeprefix('model.')]
            assert torch.equal(value, expected), key


def test_imagenet_weights_from_the_folder(no_network):
    torch.manual_seed(1)
    published = models.mobilenet_v3_large().state_dict()
    place(no_network, models.MobileNet_V3_Large_Weights.IMAGENET1K_V1.url, published)
    network = make('fasterrcnn_mobilenet_v3_large_320_fpn')
    before = {key: value.clone() for key, value in network.state_dict().items()}
    text = network.load_pretrained('backbone')
    assert 'IMAGENET1K_V1' in text
    taken = 0
    for key, value in network.state_dict().items():
        if key.startswith('model.backbone.body.'):
            name = key.replace('model.backbone.body.', 'features.')
            if not key.endswith('num_batches_tracked'):
                assert torch.equal(value, published[name]), key
                taken += 1
        elif not key.startswith('model.backbone.'):
            assert torch.equal(value, before[key]), key
    assert taken > 200


def test_damaged_and_dangerous_weight_files(no_network, tmp_path):
    class Bad:
        def __reduce__(self):
            return (print, ('code ran',))

    url = models.detection.SSDLite320_MobileNet_V3_Large_Weights.DEFAULT.url
    network = make(SSDLITE)
    buffer = io.BytesIO()
    torch.save({'a': torch.zeros(1000)}, buffer)
    no_network.mkdir(parents=True)
    file = no_network / url.rpartition('/')[2]
    for content in (b'', b'no weights', buffer.getvalue()[:500]):
        file.write_bytes(content)
        with pytest.raises(UserError, match='damaged') as caught:
            network.load_pretrained(True)
        assert str(file) in str(caught.value) and '\n' not in str(caught.value)
    torch.save(Bad(), file)
    with pytest.raises(UserError, match='damaged'):
        network.load_pretrained(True)
    assert hub.folder() == no_network


def test_the_script_without_network(run_script, toy_dataset, tmp_path, monkeypatch):
    monkeypatch.setattr('urllib.request._opener', None)  # it remembers the proxies that it was made with
    monkeypatch.setenv('TORCH_HOME', str(tmp_path / 'home'))
    for name in ('http_proxy', 'https_proxy', 'HTTP_PROXY', 'HTTPS_PROXY', 'ALL_PROXY', 'all_proxy'):
        monkeypatch.setenv(name, 'http://127.0.0.1:9')  # nobody listens there
    result = run_script(
        *('_train.py', f'konohana_dataset_path={toy_dataset}', f'log_path={tmp_path / "logs"}', 'run_name=blocked'),
        *(
            'detector=fasterrcnn_resnet50_fpn_v2',
            'pretrained=True',
            'img_hw=64,96',
            'num_workers=0',
            'skip_bad_files=True',
        ),
    )
    assert result.returncode == 2
    lines = result.stderr.strip().splitlines()
    assert len(lines) == 1 and lines[0].startswith('Error: fasterrcnn_resnet50_fpn_v2_coco-dd69338a.pth: '), lines
    assert str(tmp_path / 'home' / 'hub' / 'checkpoints') in lines[0]


def test_a_run_from_training_to_pictures(run_script, toy_dataset, tmp_path):
    """ssdlite trains, resumes, is evaluated and annotates; everything of the run is in one folder."""
    folder = tmp_path / 'logs' / 'try 花'
    command = (
        *('_train.py', f'konohana_dataset_path={toy_dataset}', f'log_path={tmp_path / "logs"}', 'run_name=try 花'),
        *(f'detector={SSDLITE}', 'img_hw=64,96', 'batch_size=4', 'num_workers=0', 'eval_every=1'),
        'skip_bad_files=True',  # so few frames do not show everybody
    )
    done = run_script(*command, 'n_epoch=1', 'random_erasing=1.0', 'trivial_augment=True', 'mosaic=True')
    assert done.returncode == 0, done.stderr
    done = run_script(*command, 'n_epoch=2', 'augment=False')
    assert done.returncode == 0 and 'Resuming at epoch 2' in done.stdout and 'classification' in done.stdout, done
    names = {file.name for file in folder.iterdir()}
    assert {'net.pt', 'optim.pt', 'iter.txt', 'curves.png', 'curves.jsonl'} <= names
    assert any(name.startswith('events') for name in names) and not any(name.endswith('.tmp') for name in names)
    assert [file.name for file in (tmp_path / 'logs').iterdir()] == ['try 花']
    assert len((folder / 'curves.jsonl').read_text(encoding='utf-8').splitlines()) == 2
    content = checkpoint.load(folder / 'net.pt')
    assert content['detector'] == SSDLITE and content['options'] == {} and content['epoch'] == 2

    model = konohana.load(folder / 'net.pt', device='cpu')
    assert not any(isinstance(m, nn.BatchNorm2d) for m in model.model.backbone.features[0][0])  # fused
    plain = konohana.load(folder / 'net.pt', device='cpu', fuse=False)
    image = torch.from_numpy(np.random.default_rng(0).random((3, 90, 160), np.float32))
    for a, b in zip(model([image]), plain([image]), strict=True):
        torch.testing.assert_close(a['scores'][:20], b['scores'][:20], rtol=1e-2, atol=1e-3)

    result = run_script(
        *('_test.py', f'konohana_dataset_path={toy_dataset}', f'weights={folder / "net.pt"}', 'threshold=0.9'),
        f'test_out={tmp_path / "out"}',
    )
    assert result.returncode == 0, result.stderr
    assert 'At threshold 0.9' in result.stdout and len(list((tmp_path / 'out').glob('*.jpg'))) == 4
