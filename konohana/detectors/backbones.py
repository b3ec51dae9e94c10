"""Classification networks of torchvision and timm (if installed) as backbones: they give feature maps.

    backbone = make_backbone('resnet18', strides=(4, 8, 16, 32))
    maps = backbone(batch)  # a list, finest first; see backbone.channels and backbone.strides
    backbone.load_imagenet()  # optional

A name that both libraries have means torchvision's network. Layers keep the library's names below `body` (`body.conv1`,
`body.bn1`, `body.layer1` ... of a ResNet), so weights from elsewhere fit.
"""

import copy
import difflib
import importlib.util
import re
import socket
import warnings

import torch
import torchvision
from torch import nn
from torchvision.models.feature_extraction import create_feature_extractor

from konohana import files
from konohana.detectors import hub
from konohana.detectors.transform import FrameTransform
from konohana.errors import UserError

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
CAFFE = '_caffe'  # ending of a ResNet's name
STAGES = 4  # of a ResNet
CAFFE_MEAN, CAFFE_STD = (123.675 / 255, 116.28 / 255, 103.53 / 255), (1 / 255,) * 3
PROBE = 128  # side in pixels of the picture that shows which map has which stride


class BgrTransform(FrameTransform):
    """`FrameTransform` that gives BGR; its mean and std are still in RGB order."""

    def normalize(self, image):
        return super().normalize(image).flip(0)


class Backbone(nn.Module):
    """What `make_backbone` gives. N x 3 x H x W -> list of N x channels[i] x H / strides[i] x W / strides[i].

    Attributes:
        name: as given to `make_backbone`. channels, strides: tuples, one number per map, finest map first.
        mean, std: normalization that its weights expect, of RGB in 0 to 1. bgr: it expects BGR.
    """

    def __init__(self, name, body, channels, strides, mean=IMAGENET_MEAN, std=IMAGENET_STD, bgr=False):
        super().__init__()
        self.name, self.channels, self.strides = name, tuple(channels), tuple(strides)
        self.mean, self.std, self.bgr = tuple(mean), tuple(std), bgr
        self.body = body
        self.norm_eval = False
        self.frozen = ()

    def transform(self, img_hw, size_divisible):
        """The `FrameTransform` that its weights expect; see there."""
        kind = BgrTransform if self.bgr else FrameTransform
        return kind(img_hw, size_divisible, self.mean, self.std)

    def freeze(self, stages, norm_eval):
        """See `make_backbone`."""
        if not 0 <= stages <= STAGES:
            raise UserError(f'frozen_stages={stages}: a ResNet has {STAGES} stages, so it is from 0 to {STAGES}.')
        parts = dict(self.body.named_children())
        if stages and 'layer1' not in parts:
            raise UserError(f'frozen_stages={stages}: only ResNets can be frozen by stages, not {self.name}.')
        self.norm_eval = norm_eval
        frozen = ('conv1', 'bn1', *(f'layer{i}' for i in range(1, stages + 1))) if stages else ()
        # Stages after the last map that is used do not exist.
        self.frozen = tuple(name for name in frozen if name in parts)
        for name in self.frozen:
            parts[name].requires_grad_(False)
        return self.train(self.training)

    def train(self, mode=True):
        super().train(mode)
        for name in self.frozen:
            self.body.get_submodule(name).eval()
        for module in self.body.modules():
            if self.norm_eval and isinstance(module, nn.modules.batchnorm._BatchNorm):
                module.eval()
        return self

    def __deepcopy__(self, memo):
        """Copies keep their mode; torchvision's extractor alone would come back in training mode."""
        copied = type(self).__new__(type(self))
        memo[id(self)] = copied
        copied.__dict__ = copy.deepcopy(self.__dict__, memo)
        return copied.train(self.training)

    def forward(self, batch):
        maps = self.body(batch)
        return list(maps.values()) if isinstance(maps, dict) else maps

    def load_imagenet(self):
        """Load ImageNet weights, downloaded once from torchvision's or timm's address; returns what was done, as text.

        Raises:
            UserError: there are none for this network; they cannot be downloaded (the message says which file, from
                where, and where to put it); the file is damaged.
        """
        if self.bgr:
            raise UserError(
                f'backbone={self.name!r}: torchvision has no weights for this variant. Take '
                f"backbone={self.name.removesuffix(CAFFE)!r}, or start from a converted file by init_from='...'."
            )
        if self.name in torchvision_names():
            weights = torchvision.models.get_model_weights(self.name).DEFAULT
            state, source = hub.state_dict(weights), str(weights)
            own = self.body.state_dict()
            missing = sorted(set(own) - set(state))
            if missing:
                raise UserError(f'{source}: these weights have no {missing[0]}, which backbone={self.name!r} needs.')
            self.body.load_state_dict({key: state[key] for key in own})
        else:
            source = _load_timm(self.body, self.name)
        return f'Starting from ImageNet weights of {self.name} ({source}).'


def make_backbone(name, strides=(4, 8, 16, 32), frozen_stages=0, norm_eval=False):
    """A network that gives feature maps, with new weights.

    Args:
        name: a classification network of torchvision ('resnet50', 'shufflenet_v2_x1_0' ...) or of timm
            ('mobilenetv3_large_100', 'cspdarknet53' ...). The ending _caffe ('resnet50_caffe') makes a ResNet the
            variant of Caffe, Detectron and MMDetection's YOLOF: the stride is in a block's first 1x1 convolution, and
            pictures are BGR in 0 to 255, minus the mean.
        strides: of the maps wanted, ascending powers of two.
        frozen_stages: of a ResNet, 0 to 4. 1 freezes the stem and the first stage, 2 also the second, and so on; 0
            trains all. Frozen batch norms stay in evaluation mode.
        norm_eval: all batch norms stay in evaluation mode during training (for trained weights and small batches).

    Returns:
        `Backbone`.

    Raises:
        UserError: an unknown network (the message suggests names), timm is not installed, the network has no maps of
            these strides, or frozen_stages does not fit it.
    """
    if not re.fullmatch(r'[\w.-]{0,100}', name):
        # timm would take some others for a file or an address.
        raise UserError(f"backbone={name!r:.100}: it is a network's name, like 'resnet50' or 'mobilenetv3_large_100'.")
    plain = name.removesuffix(CAFFE)
    known = torchvision_names()
    normalisation = {}
    if plain != name and plain in known and plain.startswith(('resnet', 'resnext', 'wide_resnet')):
        body = _torchvision_body(plain, strides, name)
        _move_strides(body)
        normalisation = {'mean': CAFFE_MEAN, 'std': CAFFE_STD, 'bgr': True}
    elif name in known:
        body = _torchvision_body(name, strides, name)
    else:
        body = _timm_body(name, strides)
        normalisation = {key: body.pretrained_cfg[key] for key in ('mean', 'std')}
    backbone = Backbone(name, body, (), strides, **normalisation)
    shapes = [tuple(x.shape) for x in _probe(backbone, name)]
    if [shape[2:] for shape in shapes] != [(PROBE // stride,) * 2 for stride in strides]:
        raise UserError(_no_maps(name, strides))
    backbone.channels = tuple(shape[1] for shape in shapes)
    return backbone.freeze(frozen_stages, norm_eval)


@torch.no_grad()
def _probe(network, name):
    """A network's output for an empty picture of PROBE x PROBE pixels."""
    try:
        return network.eval()(torch.zeros(1, 3, PROBE, PROBE))
    except (RuntimeError, AssertionError, ValueError) as error:
        reason = str(error).strip().splitlines()[0].rstrip('.!')
        raise UserError(f'backbone={name!r}: it does not take pictures of any size ({reason}).') from None
    finally:
        network.train()


def torchvision_names():
    """Names of torchvision's classification networks."""
    return torchvision.models.list_models(module=torchvision.models)


def _no_maps(name, strides):
    wanted = ', '.join(map(str, strides))
    return f'backbone={name!r}: it gives no feature maps of stride {wanted}. Take another, like resnet50.'


def _torchvision_body(name, strides, asked):
    """A torchvision network, cut off after its last map of these strides, that returns a dict of maps."""
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')  # googlenet and inception_v3 announce another initialization
        network = torchvision.models.get_model(name, weights=None)
    layers = _last_layers(network, asked)
    if not set(strides) <= set(layers):
        raise UserError(_no_maps(asked, strides))
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')  # train and eval graphs differ by dropout, which does not matter here
        return create_feature_extractor(network, {layers[stride]: str(stride) for stride in strides})


def _last_layers(network, asked):
    """{stride: path of the last layer whose output has this stride}.

    Layers inside a block that ends with another stride do not count: the first convolution of a strided residual block
    still works on the finer map, but a stage's map is the output of its last block.
    """
    strides = {}

    def keep(path):
        def hook(_module, _inputs, output):
            if isinstance(output, torch.Tensor) and output.ndim == 4 and output.shape[2] == output.shape[3]:
                strides[path] = PROBE / output.shape[2]

        return hook

    modules = dict(network.named_modules())
    hooks = [module.register_forward_hook(keep(path)) for path, module in modules.items() if path]
    try:
        _probe(network, asked)
    finally:
        for hook in hooks:
            hook.remove()
    last = {}
    for path, stride in strides.items():
        parts = path.split('.')
        above = ['.'.join(parts[:i]) for i in range(1, len(parts))]
        blocks = [outer for outer in above if type(modules[outer]) is not nn.Sequential and outer in strides]
        if all(strides[outer] == stride for outer in blocks):
            last[stride] = path
    return last


def _move_strides(resnet):
    """Move a ResNet's strides from its bottlenecks' 3x3 convolutions to the 1x1 ones before them, in place."""
    for module in resnet.modules():
        parts = dict(module.named_children())
        if 'conv3' in parts:  # a bottleneck
            parts['conv1'].stride, parts['conv2'].stride = parts['conv2'].stride, (1, 1)


def _timm_body(name, strides):
    """A network of timm that returns a list of its maps of these strides."""
    known = torchvision_names()
    near = difflib.get_close_matches(name, known, n=3)
    if importlib.util.find_spec('timm') is None:
        hint = f' Near: {", ".join(near)}.' if near else ''
        raise UserError(
            f'backbone={name!r}: torchvision has no such network.{hint} Many more are in timm: pip install timm'
        )
    import timm

    if not timm.is_model(name):
        near = difflib.get_close_matches(name, dict.fromkeys([*known, *timm.list_models()]), n=5)
        hint = f'Near: {", ".join(near)}.' if near else "Names are like 'resnet50' or 'mobilenetv3_large_100'."
        raise UserError(f'backbone={name!r}: neither torchvision nor timm has such a network. {hint}')
    try:
        every = timm.create_model(name, features_only=True).feature_info.reduction()
        # Of several maps of one stride, take the last.
        indices = [len(every) - 1 - every[::-1].index(stride) for stride in strides]
        return timm.create_model(name, features_only=True, out_indices=indices)
    except (ValueError, RuntimeError, AttributeError, TypeError, AssertionError, NotImplementedError):
        raise UserError(_no_maps(name, strides)) from None


def _load_timm(body, name):
    """Load timm's published weights into its features-only network; returns where they are from.

    The file is downloaded here: without a network timm itself would try for half a minute, and its folders cannot be
    filled by hand.
    """
    import timm

    where = body.pretrained_cfg.get('hf_hub_id')
    if not where:
        raise UserError(f'backbone={name!r}: timm has no weights for it. Take another backbone, or pretrained=None.')
    file = hub.folder() / f'{where.rpartition("/")[2]}.safetensors'
    url = f'https://huggingface.co/{where}/resolve/main/model.safetensors'
    if not file.is_file():
        timeout = socket.getdefaulttimeout()
        try:
            socket.setdefaulttimeout(hub.TIMEOUT)
            file.parent.mkdir(parents=True, exist_ok=True)
            torch.hub.download_url_to_file(url, str(file))
        except (OSError, ValueError) as error:
            raise UserError(
                f'{file.name}: these weights are not on this computer and cannot be downloaded ({error}). Download '
                f'{url} elsewhere and put it into {file.parent} as {file.name}.'
            ) from None
        finally:
            socket.setdefaulttimeout(timeout)
    try:
        indices = body.feature_info.out_indices
        donor = timm.create_model(
            name,
            pretrained=True,
            features_only=True,
            out_indices=indices,
            pretrained_cfg_overlay={'file': str(file), 'custom_load': False},
        )
    except Exception as error:  # safetensors and timm raise anything for a damaged or foreign file
        raise UserError(
            f'{file}: damaged, or of another network ({files.reason(error)[:150]}). Delete it, or download it again: '
            f'{url}'
        ) from None
    body.load_state_dict(donor.state_dict())
    return where
