"""Convert weights of MMDetection 3.x: SOLOv2-light R18 and R34, SOLOv2 R50, YOLOF R50.

    python tools/convert_mmdet.py weights_in=solov2_light_r18.pth weights_out=weights/solov2_light_r18.pt

Every name and shape must match. Use the result like any weights file: weights=... or init_from=...
"""

import importlib
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from konohana import files
from konohana.errors import UserError
from konohana.settings import read, run

ROOT = Path(__file__).resolve().parent.parent

weights_in = ''  # MMDetection's file (.pth)
weights_out = ''  # weights file to write (.pt)
overwrite = False  # replace an existing file that this program did not write
class_names = None  # names of the classes: a text file with one a line, or ['cat', 'dog']; None takes the file's own
img_hw = ()  # height and width that pictures are resized to inside; () takes those of MMDetection's configuration

SHOWN = 6  # names of weights to list in a message

# The size of pictures in MMDetection's test configuration: short and long side.
SIZES = {
    'solov2_light_r18': (448, 768),
    'solov2_light_r34': (448, 768),
    'solov2_r50': (800, 1333),
    'yolof': (800, 1333),
}


def main(arguments=None):
    settings = read(globals(), arguments, folder=ROOT)
    for name in ('weights_in', 'weights_out'):
        if not getattr(settings, name):
            raise UserError(f'{name}: name a file, as in weights_in=solov2.pth weights_out=weights/solov2.pt')
    source, target = settings.path(settings.weights_in), settings.path(settings.weights_out)
    if source == target:
        raise UserError(f'{target}: weights_out is the same file as weights_in. Name another file.')
    given = settings.class_names
    if isinstance(given, str):
        given = read_names(settings.path(given))
    files.claim(target, [source], settings.overwrite, 'weights_out')
    from konohana import checkpoint, detectors  # imported here, so that --help answers at once

    state, found_names = read_file(source)
    detector, n_classes = recognise(state, source)
    names = names_of_classes(given, n_classes, found_names, source)
    size = tuple(settings.img_hw) or SIZES[detector]
    module = importlib.import_module(f'konohana.detectors.{detectors.DETECTORS[detector][0]}')
    options = detectors.options_of(detector, getattr(module, 'MMDET_OPTIONS', {}))
    own = detectors.build(detector, n_classes, size, **options).state_dict()
    converted = module.convert_mmdet_state(state)
    # Old files lack the batch counters, which are not weights.
    converted = {**{key: value for key, value in own.items() if key.endswith('num_batches_tracked')}, **converted}
    check(own, converted, source, detector)
    converted = {key: converted[key].to(own[key].dtype) for key in own}
    content = {'model': converted, 'detector': detector, 'options': options, 'class_names': names}
    checkpoint.save({**content, 'img_hw': list(size), 'epoch': 0, 'figures': {}}, target, remember=True)
    shown = ', '.join(names[:5]) + (f' ... ({n_classes})' if n_classes > 5 else '')
    print(f'{target}: {detector} with all {len(state)} tensors of {source.name}. Classes: {shown}.')


def read_file(path):
    """MMDetection's file -> (state dict, names of its classes or None)."""
    import torch

    from konohana import checkpoint

    content = checkpoint.load(path, needed=(), foreign=True)
    state = content.get('state_dict', content) if isinstance(content, dict) else None
    if not state or not all(isinstance(key, str) and isinstance(v, torch.Tensor) for key, v in state.items()):
        raise UserError(f'{path}: not a file of MMDetection, it has no state_dict of weights.')
    # 3.x stores the names in dataset_meta, 2.x beside it.
    meta = content.get('meta') or {}
    dataset = meta.get('dataset_meta') or {}
    names = dataset.get('classes') or dataset.get('CLASSES') or meta.get('CLASSES')
    return state, [names] if isinstance(names, str) else names and [str(name) for name in names]


def recognise(state, path):
    """State dict -> (name of the detector, number of its classes), by the names and shapes of some weights."""
    if 'mask_head.mask_feature_head.conv_pred.conv.weight' in state and 'mask_head.conv_cls.weight' in state:
        if any('conv_offset' in key for key in state):
            raise UserError(f'{path}: SOLOv2 with deformable convolutions, which is not among the detectors here.')
        name = 'solov2_light_r34' if 'backbone.layer1.2.conv1.weight' in state else 'solov2_light_r18'
        if 'backbone.layer1.0.conv3.weight' in state:
            name = 'solov2_r50'
        return name, len(state['mask_head.conv_cls.weight'])
    if 'bbox_head.object_pred.weight' in state and 'bbox_head.cls_score.weight' in state:
        return 'yolof', len(state['bbox_head.cls_score.weight']) // len(state['bbox_head.object_pred.weight'])
    raise UserError(f'{path}: neither SOLOv2 nor YOLOF (it has {", ".join(list(state)[:3])} ...).')


def names_of_classes(given, n_classes, found, path):
    """The names to write: those given, else the file's, else COCO's if there are eighty classes.

    Args:
        given: `class_names`, a text file already replaced by its lines. found: the file's own names, or None.
        path: the file, for messages.
    """
    names = found if given is None else given
    if names is None and n_classes == 80:
        from torchvision.models.detection import FasterRCNN_ResNet50_FPN_Weights

        coco = FasterRCNN_ResNet50_FPN_Weights.COCO_V1.meta['categories']
        names = [name for name in coco if name not in ('__background__', 'N/A')]
    if not isinstance(names, (list, tuple)) or not all(isinstance(name, str) for name in names):
        raise UserError(
            f'class_names={given!r}: {path.name} does not name its {n_classes} classes. Set class_names to a text file '
            'or a list.'
        )
    if len(names) != n_classes or len(set(names)) != len(names):
        raise UserError(
            f'class_names: {len(names)} names ({len(set(names))} different), but {path.name} has {n_classes} classes.'
        )
    return list(names)


def read_names(path):
    """The lines of a text file of names."""
    try:
        return [line.strip() for line in path.read_text(encoding='utf-8-sig').splitlines() if line.strip()]
    except (OSError, UnicodeDecodeError) as error:
        why = getattr(error, 'strerror', None) or 'not UTF-8'
        raise UserError(
            f'{path}: cannot be read ({why}). class_names takes a text file with one name a line.'
        ) from None


def check(own, state, path, detector):
    """Raise UserError with a line each for weights that are missing, unknown, or of another shape."""
    missing = [key for key in own if key not in state]
    unknown = [key for key in state if key not in own]
    shapes = [key for key in own if key in state and own[key].shape != state[key].shape]
    shapes = [f'{key} {tuple(state[key].shape)} instead of {tuple(own[key].shape)}' for key in shapes]
    lines = [f'{path}: its weights do not fit {detector}.']
    for title, keys in (('Missing', missing), ('Not known', unknown), ('Of another shape', shapes)):
        if keys:
            more = f' and {len(keys) - SHOWN} more' if len(keys) > SHOWN else ''
            lines.append(f'{title}: {", ".join(keys[:SHOWN])}{more}')
    if len(lines) > 1:
        raise UserError('\n'.join(lines))


if __name__ == '__main__':
    run(main)
