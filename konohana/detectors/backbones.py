"""Feature maps of the classification networks of torchvision, and of timm where it is installed, by name.

    backbone = make_backbone('resnet18', strides=(4, 8, 16, 32))
    maps = backbone(batch)  # a list, finest first; backbone.channels and backbone.strides say what they are
    backbone.load_imagenet()  # maybe

torchvision's network is taken where both libraries have the name. Layers keep the library's names below `body`
(`body.conv1`, `body.bn1`, `body.layer1` ... of a ResNet), so that weights from elsewhere fit.
"""

import copy
import difflib
import importlib.util
import socket
import warnings

import torch
import torchvision
from torch import nn
from torchvision.models.feature_extraction import create_feature_extractor

from konohana.detectors import hub
from konohana.detectors.transform import FrameTransform
from konohana.errors import UserError

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
CAFFE = '_caffe'  # at the end of a ResNet's name
CAFFE_MEAN, CAFFE_STD = (123.675 / 255, 116.28 / 255, 103.53 / 255), (1 / 255,) * 3
PROBE = 128  # side of the picture that is sent through to see which map has which stride


class BgrTransform(FrameTransform):
    """`FrameTransform` (its mean and deviation are of RGB) that gives BGR."""

    def normalize(self, image):
        return super().normalize(image).flip(0)


class Backbone(nn.Module):
    """What `make_backbone` gives. N x 3 x H x W -> list of N x channels[i] x H / strides[i] x W / strides[i].

    Attributes:
        name: as asked for. channels, strides: tuples, one number per map, finest map first.
        mean, std: the normalisation its weights want, of RGB in 0 .. 1. bgr: after it, the channels are turned around.
    """

    def __init__(self, name, body, channels, strides, mean=IMAGENET_MEAN, std=IMAGENET_STD, bgr=False):
        super().__init__()
        self.name, self.channels, self.strides = name, tuple(channels), tuple(strides)
        self.mean, self.std, self.bgr = tuple(mean), tuple(std), bgr
        self.body = body
        self.norm_eval = False
        self.frozen = ()

    def transform(self, img_hw, size_divisible):
        """The `FrameTransform` that makes pictures as its weights want them; see there."""
        kind = BgrTransform if self.bgr else FrameTransform
        return kind(img_hw, size_divisible, self.mean, self.std)

    def freeze(self, stages, norm_eval):
        """See `make_backbone`."""
        if stages and not hasattr(self.body, 'layer1'):
            raise UserError(f'frozen_stages={stages}: only ResNets are frozen by stages, not {self.name}.')
        self.norm_eval = norm_eval
        self.frozen = ('conv1', 'bn1', *(f'layer{i}' for i in range(1, stages + 1))) if stages else ()
        for name in self.frozen:
            # Without the later maps their stages are not there.
            if hasattr(self.body, name):
                getattr(self.body, name).requires_grad_(False)
        return self.train(self.training)

    def train(self, mode=True):
        super().train(mode)
        for name in self.frozen:
            if hasattr(self.body, name):
                getattr(self.body, name).eval()
        for module in self.body.modules():
            if self.norm_eval and isinstance(module, nn.modules.batchnorm._BatchNorm):
                module.eval()
        return self

    def __deepcopy__(self, memo):
        """As of any module; torchvision's extractor alone would come back in training mode."""
        copied = type(self).__new__(type(self))
        memo[id(self)] = copied
        copied.__dict__ = copy.deepcopy(self.__dict__, memo)
        return copied.train(self.training)

    def forward(self, batch):
        maps = self.body(batch)
        return list(maps.values()) if isinstance(maps, dict) else maps

    def load_imagenet(self):
        """Take ImageNet's weights, fetched once by torchvision's or timm's address; returns what was done, as text.

        Raises:
            UserError: no network and no file (which one, from where, where to put it), a damaged file, or there are
                none for this network.
        """
        if self.bgr:
            raise UserError(
                f'backbone={self.name!r}: torchvision has no weights of this variant. Take '
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
        return f"Starting from ImageNet's weights of {self.name} ({source})."


def make_backbone(name, strides=(4, 8, 16, 32), frozen_stages=0, norm_eval=False):
    """A network that gives feature maps, with new weights.

    Args:
        name: a classification network of torchvision ('resnet50', 'shufflenet_v2_x1_0' ...) or of timm
            ('mobilenetv3_large_100', 'cspdarknet53' ...). 'resnet50_caffe' (and other ResNets so) is the variant of
            Caffe, Detectron and MMDetection's YOLOF: the stride lies in a block's first 1x1 convolution, and the
            normalised picture is BGR in 0 .. 255 less the mean.
        strides: of the maps wanted, ascending powers of two.
        frozen_stages: of a ResNet; 1: the stem and the first stage learn nothing, 2: nor does the second ... 0: all
            learn. Frozen batch norms stay in evaluation mode.
        norm_eval: all batch norms stay in evaluation mode while training (for trained weights and small batches).

    Returns:
        `Backbone`.

    Raises:
        UserError: no such network (near names are given), timm is missing, it has no maps of these strides.
    """
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
    """What a network gives for an empty picture of PROBE x PROBE pixels."""
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
    """A torchvision network cut off after its last map of these strides; it gives a dict of maps."""
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')  # googlenet and inception_v3 announce another initialisation
        network = torchvision.models.get_model(name, weights=None)
    layers = _last_layers(network, asked)
    if not set(strides) <= set(layers):
        raise UserError(_no_maps(asked, strides))
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')  # train and eval graphs differ by dropout, which is no concern of ours
        return create_feature_extractor(network, {layers[stride]: str(stride) for stride in strides})


def _last_layers(network, asked):
    """{stride: path of the layer that gives the network's last map of it}.

    Layers inside a block that ends with another stride do not count: the first convolution of a strided residual block
    still works on the finer map, but a stage's map is what its last block gives.
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
    """A ResNet's strides from the 3x3 convolutions of its bottlenecks to the 1x1 ones before them, in place."""
    for module in resnet.modules():
        first, second = getattr(module, 'conv1', None), getattr(module, 'conv2', None)
        if isinstance(second, nn.Conv2d) and hasattr(module, 'conv3'):
            first.stride, second.stride = second.stride, (1, 1)


def _timm_body(name, strides):
    """A network of timm that gives a list of its maps of these strides."""
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
        # Where several maps have a stride the last is taken, as of a stage.
        indices = [len(every) - 1 - every[::-1].index(stride) for stride in strides]
        return timm.create_model(name, features_only=True, out_indices=indices)
    except (ValueError, RuntimeError, AttributeError, TypeError, AssertionError, NotImplementedError):
        raise UserError(_no_maps(name, strides)) from None


def _load_timm(body, name):
    """Load timm's published weights of a network into its features-only form; returns where they are from.

    timm's own way through the hub tries for half a minute where there is no network, and its folders cannot be filled
    by hand; so the file is fetched here.
    """
    import timm

    where = body.pretrained_cfg.get('hf_hub_id')
    if not where:
        raise UserError(f'backbone={name!r}: timm has no weights for it. Take another backbone, or train without.')
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
                f'{file.name}: these weights are not here and cannot be fetched ({error}). Fetch {url} where there is '
                f'a network, and put it into {file.parent} as {file.name}.'
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
    except Exception as error:  # whatever safetensors and timm raise for a damaged or foreign file
        reason = ' '.join(str(error).split())[:150]
        raise UserError(
            f'{file}: damaged, or of another network ({reason}). Delete it, or fetch it anew: {url}'
        ) from None
    body.load_state_dict(donor.state_dict())
    return where
