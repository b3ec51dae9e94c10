"""bfloat16 on a CPU learns what float32 learns, and weights files know nothing of it."""

import copy

import pytest
import torch
from torch import nn

from konohana import detectors
from konohana.training import half_precision


@pytest.mark.parametrize('stride', [1, 2])
@pytest.mark.parametrize('kernel', [3, 5])
def test_gradients_are_those_of_float32(kernel, stride):
    torch.manual_seed(0)
    plain = nn.Conv2d(16, 16, kernel, stride, kernel // 2, groups=16, bias=False)
    quick = copy.deepcopy(plain)
    half_precision.quicken_depthwise(quick)
    assert type(quick) is half_precision.DepthwiseConv2d
    x = torch.randn(2, 16, 13, 18).bfloat16().float()
    gradients = []
    for layer, dtype in ((plain, torch.float32), (quick, torch.bfloat16)):
        given = x.to(dtype).clone().requires_grad_()
        out = layer(given)
        assert out.dtype == dtype
        out.backward(torch.ones_like(out) * torch.linspace(-1, 1, out.shape[-1]).to(dtype))
        gradients.append((given.grad.float(), layer.weight.grad))
        assert given.grad.dtype == dtype and layer.weight.grad.dtype == torch.float32
    for exact, rounded in zip(*gradients, strict=True):
        assert (exact - rounded).abs().max() < 0.02 * exact.abs().max()


def test_in_float32_and_without_gradients_it_is_the_plain_layer():
    torch.manual_seed(0)
    plain = nn.Conv2d(8, 8, 3, padding=1, groups=8, bias=False)
    quick = copy.deepcopy(plain)
    half_precision.quicken_depthwise(quick)
    x = torch.randn(1, 8, 9, 9)
    assert torch.equal(plain(x), quick(x))
    with torch.no_grad():
        assert torch.equal(plain.bfloat16()(x.bfloat16()), quick.bfloat16()(x.bfloat16()))


def test_only_depthwise_layers_change_and_their_weights_stay():
    model = detectors.build('konohana', 3, (64, 96))
    before = model.state_dict()
    kinds = {name: (type(layer), getattr(layer, 'groups', 1)) for name, layer in model.named_modules()}
    half_precision.quicken_depthwise(model)
    for name, layer in model.named_modules():
        kind, groups = kinds[name]
        assert type(layer) is (half_precision.DepthwiseConv2d if kind is nn.Conv2d and groups > 1 else kind), name
    after = copy.deepcopy(model).state_dict()
    assert before.keys() == after.keys() and all(torch.equal(before[key], after[key]) for key in before)


def test_where_half_precision_is_used(monkeypatch):
    assert half_precision.half_type(torch.device('cuda')) == torch.float16
    for has_amx, half in ((True, torch.bfloat16), (False, None)):
        monkeypatch.setattr(torch.cpu, '_is_amx_tile_supported', lambda answer=has_amx: answer, raising=False)
        assert half_precision.half_type(torch.device('cpu')) == half
        for wanted in (True, False):
            with half_precision.autocast(torch.device('cpu'), wanted):
                assert torch.is_autocast_enabled('cpu') == (wanted and has_amx)


def test_the_last_layers_do_not_round_boxes():
    model = detectors.build('konohana', 3, (64, 96))
    with torch.autocast('cpu', dtype=torch.bfloat16):
        maps = model.raw_outputs(torch.randn(1, 3, 64, 96))
    assert all(values.dtype == torch.float32 for values in maps.values())
    assert not torch.equal(maps['find'], maps['find'].bfloat16().float())
