"""The flagship's choices, attention and activation: the defaults are the network as it was before them."""

import importlib.util
import sys

import pytest
import torch
import torch.nn.functional as F
from conftest import IMG_HW, PROJECT, make_weights, untrained_state

from konohana import checkpoint, inference
from konohana.detectors import build, options_of
from konohana.detectors.konohana.detector import Konohana
from konohana.detectors.konohana.network import ACTIVATIONS, ATTENTIONS, AconC, CoordinateAttention
from konohana.errors import UserError
from konohana.training.run import Run
from konohana.training.schedule import Ema, make_optimizer

OLD = {'use_res2block': False}  # what a weights file from before held as options


def sample():
    target = {'boxes': torch.tensor([[10.0, 8.0, 60.0, 60.0]]), 'labels': torch.tensor([2])}
    return [torch.rand(3, *IMG_HW)] * 2, [target] * 2


def other_weights(model):
    """The model with each parameter and running average moved a little, in evaluation mode."""
    with torch.no_grad():
        for value in model.state_dict().values():
            if value.is_floating_point():
                value += 0.1 * torch.rand_like(value)
    return model.eval()


def test_the_defaults_are_the_network_of_the_shipped_weights():
    for name in ('net.pt', 'net_det3.pt'):
        content = checkpoint.load(PROJECT / 'weights' / name)
        model = inference.from_checkpoint(content, name)
        assert set(model.state_dict()) == set(content['model'])
    new = {'attention': 'se', 'activation': 'relu6', 'second_look': False, 'large': False}
    assert options_of('konohana', OLD) == {**OLD, **new}


def test_the_same_seed_gives_the_same_weights_with_the_defaults_named():
    made = []
    for options in ({}, {'attention': 'se', 'activation': 'relu6'}):
        torch.manual_seed(3)
        made.append(build('konohana', 5, IMG_HW, **options))
    first, second = (model.state_dict() for model in made)
    assert str(made[0]) == str(made[1]) and list(first) == list(second)
    assert all(torch.equal(first[key], second[key]) for key in first)


def test_a_run_without_the_choices_in_its_files_goes_on(tmp_path):
    def run(options):
        model = build('konohana', 2, IMG_HW, **options)
        optimizer = make_optimizer(model, 1e-3, 0.05)
        scaler = torch.amp.GradScaler('cpu', enabled=False)
        description = {'detector': 'konohana', 'options': options, 'class_names': ['a', 'b'], 'img_hw': list(IMG_HW)}
        return Run(tmp_path, model, Ema(model), optimizer, scaler, description, {'seed': 0})

    run(OLD).save()
    assert run(options_of('konohana', OLD)).resume().startswith('Resuming')
    with pytest.raises(UserError, match='acon'):
        run(options_of('konohana', {'activation': 'acon'})).resume()


@pytest.mark.parametrize(
    ('attention', 'activation'),
    [('coordinate', 'acon'), ('none', 'relu'), ('se', 'silu'), ('se', 'mish'), ('se', 'gelu')],
)
@pytest.mark.parametrize('use_res2block', [False, True], ids=['plain', 'res2'])
def test_every_choice_learns_and_comes_back_from_its_file(tmp_path, attention, activation, use_res2block):
    torch.manual_seed(0)
    large = attention == 'none'
    options = {'use_res2block': use_res2block, 'attention': attention, 'activation': activation, 'large': large}
    model = other_weights(build('konohana', 3, IMG_HW, **options)).train()
    losses = model(*sample())
    sum(losses.values()).backward()
    assert [name for name, p in model.named_parameters() if p.grad is None or not p.grad.isfinite().all()] == []

    model.eval()
    path = tmp_path / 'net.pt'
    make_weights(path, model=model.state_dict(), options=options, class_names=['a', 'b', 'c'])
    batch = torch.rand(1, 3, *IMG_HW)
    with torch.inference_mode():
        expected, found = model.raw_outputs(batch), inference.load(path, 'cpu').raw_outputs(batch)
    for name, values in expected.items():
        torch.testing.assert_close(found[name], values, rtol=1e-3, atol=1e-3 * float(values.abs().max()))


def test_choices_change_the_network_and_what_fits_is_kept():
    sizes = {}
    for options in ({}, {'attention': 'none'}, {'attention': 'coordinate'}, {'activation': 'acon'}):
        model = build('konohana', 14, IMG_HW, **options)
        sizes[str(options)] = sum(p.numel() for p in model.parameters())
        left = checkpoint.fit_weights(model, untrained_state())
        new = ('p1', 'p2', 'beta') if options.get('activation') else ('squeeze',)
        assert all(any(part in key for part in new) for key in left)
        assert bool(left) == (options not in ({}, {'attention': 'none'}))
    assert len(set(sizes.values())) == len(sizes)


@pytest.mark.parametrize('options', [{'attention': 'see'}, {'activation': 'ACON'}, {'activation': ''}])
def test_an_unknown_choice_is_one_line_with_the_known_ones(options):
    (name, known), *_ = [('attention', ATTENTIONS)] if 'attention' in options else [('activation', ACTIVATIONS)]
    with pytest.raises(UserError, match=f'^{name}=.*{", ".join(known)}') as caught:
        build('konohana', 3, IMG_HW, **options)
    assert '\n' not in str(caught.value)


def test_acon_starts_as_silu_and_can_be_a_line_and_a_relu():
    x = torch.randn(2, 3, 4, 5)
    acon = AconC(3)
    torch.testing.assert_close(acon(x), F.silu(x))
    with torch.no_grad():
        acon.beta.copy_(torch.tensor([0.0, 1e4, 1e4]))
        acon.p1.copy_(torch.tensor([0.6, 1.0, 1.0]))
        acon.p2.copy_(torch.tensor([0.2, 0.0, 0.25]))
    found = acon(x)
    torch.testing.assert_close(found[:, 0], 0.4 * x[:, 0])  # beta = 0: the mean of the two lines
    torch.testing.assert_close(found[:, 1], x[:, 1].relu(), atol=1e-3, rtol=0)
    torch.testing.assert_close(found[:, 2], F.leaky_relu(x[:, 2], 0.25), atol=1e-3, rtol=0)


def test_acons_parameters_do_not_decay():
    model = build('konohana', 3, IMG_HW, activation='acon')
    decayed = {id(p) for p in make_optimizer(model, 1e-3, 0.05).param_groups[0]['params']}
    parts = [p for layer in model.modules() if isinstance(layer, AconC) for p in layer.parameters()]
    assert parts and not any(id(p) in decayed for p in parts)


def test_coordinate_attention_is_the_papers():
    """Beside the paper's code (github.com/houqb/CoordAttention), written from it: pooling, concatenation, two gates."""
    torch.manual_seed(0)
    layer = other_weights(CoordinateAttention(16, 4))
    x = torch.randn(2, 16, 6, 9)
    y = torch.cat([F.adaptive_avg_pool2d(x, (6, 1)), F.adaptive_avg_pool2d(x, (1, 9)).permute(0, 1, 3, 2)], dim=2)
    y = F.conv2d(y, layer.conv[0].weight)
    norm = layer.conv[1]
    y = F.hardswish(F.batch_norm(y, norm.running_mean, norm.running_var, norm.weight, norm.bias, eps=norm.eps))
    rows, columns = y[:, :, :6], y[:, :, 6:].permute(0, 1, 3, 2)
    rows = F.conv2d(rows, layer.rows.weight, layer.rows.bias).sigmoid()
    columns = F.conv2d(columns, layer.columns.weight, layer.columns.bias).sigmoid()
    torch.testing.assert_close(layer(x), x * rows * columns)


def test_coordinate_attention_starts_nearly_open_and_learns():
    torch.manual_seed(0)
    layer = CoordinateAttention(16, 4)
    x = torch.randn(2, 16, 6, 9)
    gates = layer(x) / x
    assert gates.min() > 0.85 and gates.max() < 1
    optimizer = torch.optim.SGD(layer.parameters(), 10.0)
    before = [p.detach().clone() for p in layer.parameters()]
    for _ in range(2):
        optimizer.zero_grad()
        (layer(x) * torch.linspace(-1, 1, 9)).pow(2).mean().backward()
        optimizer.step()
    assert not any(torch.equal(p, q) for p, q in zip(before, layer.parameters(), strict=True))


def test_the_drawing_names_the_attention():
    spec = importlib.util.spec_from_file_location('draw_network', PROJECT / 'tools' / 'draw_network.py')
    script, path = importlib.util.module_from_spec(spec), list(sys.path)
    spec.loader.exec_module(script)
    sys.path[:] = path
    signs = {}
    for attention in ATTENTIONS:
        picture = script.draw(Konohana(3, IMG_HW, attention=attention), IMG_HW)
        signs[attention] = [sign for sign in ('SE', 'CA') if f'>{sign}<' in picture]
    assert signs == {'se': ['SE'], 'coordinate': ['CA'], 'none': []}
