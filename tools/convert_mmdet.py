"""Make a weights file of one that MMDetection 3.x wrote: SOLOv2-light R18 and R34, SOLOv2 R50, YOLOF R50.

    python tools/convert_mmdet.py weights_in=solov2_light_r18.pth weights_out=weights/solov2_light_r18.pt

Every name and shape must fit. The result is used like one's own: weights=... or init_from=...
"""

import importlib
import sys
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from torchvision.models.detection import FasterRCNN_ResNet50_FPN_Weights

from konohana import checkpoint, detectors
from konohana.errors import UserError
from konohana.settings import override, resolve, run

weights_in = ''  # MMDetection's file (.pth)
weights_out = ''  # weights file to write (.pt)
class_names = None  # names of the classes: a text file with one a line, or ['cat', 'dog']; None takes the file's own
img_hw = ()  # height and width that pictures are resized to inside; () takes what MMDetection's configuration says

SHOWN = 6  # names of weights in a line about them

# The size of pictures when MMDetection tests: short and long side.
SIZES = {
    'solov2_light_r18': (448, 768),
    'solov2_light_r34': (448, 768),
    'solov2_r50': (800, 1333),
    'yolof': (800, 1333),
}


def read(path):
    """MMDetection's file -> (state dict, names of its classes or None)."""
    content = checkpoint.load(path, needed=(), foreign=True)
    state = content.get('state_dict', content) if isinstance(content, dict) else None
    if not state or not all(isinstance(key, str) and isinstance(v, torch.Tensor) for key, v in state.items()):
        raise UserError(f'{path}: not a file of MMDetection: it has no state_dict of weights.')
    # 3.x keeps the names in dataset_meta, 2.x kept them beside it.
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


def names_of_classes(n_classes, found, path, root):
    """The names to write: the variable's, else the file's, else COCO's where there are eighty."""
    names = class_names
    if isinstance(names, str):
        listed = resolve(root, names)
        try:
            names = [line.strip() for line in listed.read_text(encoding='utf-8-sig').splitlines() if line.strip()]
        except (OSError, UnicodeDecodeError) as error:
            why = getattr(error, 'strerror', None) or 'not UTF-8'
            raise UserError(
                f'{listed}: cannot be read ({why}). class_names is a text file with a name a line.'
            ) from None
    elif names is None:
        names = found
        if names is None and n_classes == 80:
            coco = FasterRCNN_ResNet50_FPN_Weights.COCO_V1.meta['categories']
            names = [name for name in coco if name not in ('__background__', 'N/A')]
    if not isinstance(names, (list, tuple)) or not all(isinstance(name, str) for name in names):
        raise UserError(f'class_names={class_names!r}: {path.name} does not name its {n_classes} classes. Name them.')
    if len(names) != n_classes or len(set(names)) != len(names):
        raise UserError(
            f'class_names: {len(names)} names ({len(set(names))} different), but {path.name} has {n_classes} classes.'
        )
    return list(names)


def check(own, state, path, detector):
    """UserError with a line each on weights that are missing, unknown, or of another shape."""
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


def main():
    override(globals())
    for name in ('weights_in', 'weights_out'):
        if not globals()[name]:
            raise UserError(f'{name}: name a file, as in weights_in=solov2.pth weights_out=weights/solov2.pt')
    root = Path(__file__).resolve().parent
    source, target = resolve(root, weights_in), resolve(root, weights_out)
    if source == target:
        raise UserError(f'{target}: weights_out is weights_in itself; name another file.')
    state, found_names = read(source)
    detector, n_classes = recognise(state, source)
    module = importlib.import_module(f'konohana.detectors.{detectors.DETECTORS[detector][0]}')
    size = tuple(img_hw) or SIZES[detector]
    names = names_of_classes(n_classes, found_names, source, root)
    options = detectors.options_of(detector, getattr(module, 'MMDET_OPTIONS', {}))
    model = detectors.build(detector, n_classes, size, **options)
    own = model.state_dict()
    converted = module.convert_mmdet_state(state)
    # Counters of batches, which old files lack, are not weights.
    converted = {**{k: v for k, v in own.items() if k.endswith('num_batches_tracked')}, **converted}
    check(own, converted, source, detector)
    converted = {key: converted[key].to(own[key].dtype) for key in own}
    content = {'model': converted, 'detector': detector, 'options': options, 'class_names': names}
    checkpoint.save({**content, 'img_hw': list(size), 'epoch': 0, 'figures': {}}, target)
    shown = ', '.join(names[:5]) + (f' ... ({n_classes})' if n_classes > 5 else '')
    print(f'{target}: {detector} with all {len(state)} tensors of {source.name}. Classes: {shown}.')


if __name__ == '__main__':
    run(main)
