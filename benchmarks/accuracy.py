"""Accuracy of the default network and its peers: python benchmarks/accuracy.py konohana_dataset_path=my_show

All peers train on the same frames at the same size for the same minutes on the same device, and are evaluated on the
same val. _train.py trains the detectors of this project (as tools/compare.py does, so you can resume); ultralytics' own
trainer trains the YOLOs from their .yaml files, if ultralytics is installed. One table (accuracy.md) shows accuracy,
size and speed of each. The minutes are equal, not the epochs: a fast network sees more frames. On CPUs with AMX,
_train.py computes in bfloat16 and ultralytics' trainer does not: 'amp': False in a peer's variables makes them alike.
"""

import csv
import json
import shutil
import statistics
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

# PyTorch and what needs it are imported where they are used, so that --help answers at once.
from konohana import files
from konohana.cast import IGNORE_CLASS
from konohana.errors import UserError
from konohana.settings import read, require, run
from tools import compare

peers = {  # each peer's name, and its variables of _train.py; None for a YOLO of ultralytics
    'ours': {},
    'ours, Res2': {'use_res2block': True},
    'ssdlite320_mobilenet_v3_large': {'detector': 'ssdlite320_mobilenet_v3_large'},
    'fcos_resnet50_fpn': {'detector': 'fcos_resnet50_fpn'},
    'fasterrcnn_resnet50_fpn_v2': {'detector': 'fasterrcnn_resnet50_fpn_v2'},
    'yolo11n': None,
    'yolo26n': None,
}
pretrained = False  # True: start from ImageNet's weights; the YOLOs are left out
konohana_dataset_path = 'toy_show'  # the dataset's folder, with the splits train and val
minutes = 30.0  # minutes of training for each peer, without evaluation
img_hw = (360, 640)  # height and width that frames are resized to
batch_size = 16  # frames in a batch
seed = 0  # of all peers
device = ''  # 'cuda', 'mps', 'cpu', or '' for the fastest there is
n_runs = 30  # timed runs of each peer
accuracy_out = 'logs/accuracy'  # folder of accuracy.md and a folder for each peer
overwrite = False  # replace an existing accuracy.md that this program did not write
progress = True  # show progress bars

ROOT = Path(__file__).resolve().parent.parent
COLUMNS = ('AP', 'AP50', 'AP75', 'found AP50', 'M parameters', 'GMAC', 'ms a picture', 'against ours', 'epochs')


def yolo_dataset(folder, train_frames, val_frames, class_names):
    """Write frames as ultralytics reads them: images/<split>, labels/<split> and data.yaml, whose path is returned."""
    from konohana.data.images import load_image

    for split, frames in (('train', train_frames), ('val', val_frames)):
        for kind in ('images', 'labels'):
            (folder / kind / split).mkdir(parents=True, exist_ok=True)
        for i, frame in enumerate(frames):
            shutil.copyfile(frame.path, folder / 'images' / split / f'{i:06}{frame.path.suffix}')
            height, width = load_image(frame.path).shape[:2]
            lines = []
            for (x1, y1, x2, y2), name in zip(frame.boxes.tolist(), frame.names, strict=True):
                centre = ((x1 + x2) / 2 / width, (y1 + y2) / 2 / height, (x2 - x1) / width, (y2 - y1) / height)
                lines.append(f'{class_names.index(name)} ' + ' '.join(f'{value:.6f}' for value in centre))
            files.write_text(folder / 'labels' / split / f'{i:06}.txt', '\n'.join(lines) + '\n')
    # JSON is YAML, and needs no library here.
    data = {'path': str(folder), 'train': 'images/train', 'val': 'images/val', 'names': dict(enumerate(class_names))}
    files.write_text(folder / 'data.yaml', json.dumps(data, ensure_ascii=False))
    return folder / 'data.yaml'


def train_yolo(name, folder, frames, class_names, settings, device, data=None, **options):
    """Train a YOLO by ultralytics' trainer for `minutes`, from its .yaml; returns the file of its weights.

    Args:
        data: data.yaml of the frames, where they are written already. options: of ultralytics' trainer.
    """
    try:
        from ultralytics import YOLO
    except ImportError:
        raise UserError(f'peer {name!r} needs ultralytics: pip install ultralytics, or remove it from peers.') from None
    weights = folder / 'run' / 'weights' / 'last.pt'
    done = folder / 'done.txt'
    if not done.is_file():
        data = data or yolo_dataset(folder / 'data', *frames, class_names)
        YOLO(f'{name}.yaml').train(
            data=str(data), time=settings.minutes / 60, epochs=10_000, imgsz=max(settings.img_hw),
            batch=settings.batch_size, seed=settings.seed, device=str(device), project=str(folder), name='run',
            exist_ok=True, pretrained=False, val=False, plots=False, verbose=False, **{'workers': 2, **options},
        )  # fmt: skip
        files.write_text(done, 'trained\n')
    return weights


def yolo_epochs(folder):
    """The epochs that ultralytics' trainer has done, from its results.csv; None if that is not there."""
    file = folder / 'run' / 'results.csv'
    if not file.is_file():
        return None
    lines = file.read_text(encoding='utf-8').splitlines()
    return float(list(csv.DictReader(lines))[-1]['epoch'])


def row_of(metrics):
    """The metrics of the table, from those of an evaluation."""
    return {
        **{key: metrics[key] for key in ('AP', 'AP50', 'AP75')},
        'found AP50': metrics['AP50_agnostic'],
        'found AP75': metrics['AP75_agnostic'],
    }


def table(rows, settings, device):
    """The comparison as Markdown."""
    start = 'from ImageNet weights' if settings.pretrained else 'from scratch'
    height, width = settings.img_hw
    lines = [
        f'{settings.minutes:g} minutes of training each on {device}, {start}, {width} x {height}, '
        f'seed {settings.seed}.',
        '',
        '| detector | ' + ' | '.join(COLUMNS) + ' |',
        '|---|' + '---:|' * len(COLUMNS),
    ]
    for name, row in rows.items():
        cells = []
        for column in COLUMNS:
            digits = 3 if 'AP' in column else 2 if column in ('M parameters', 'GMAC', 'against ours') else 1
            value = row.get(column)
            cells.append('–' if value is None else f'{value:.{digits}f}')
        lines.append(f'| {name} | ' + ' | '.join(cells) + ' |')
    return '\n'.join(lines) + '\n'


def main(arguments=None):
    settings = read(globals(), arguments, folder=ROOT)
    require(settings, minutes=(0.01, None), n_runs=(1, None), batch_size=(1, None))
    out = settings.path(settings.accuracy_out)
    files.claim(out / 'accuracy.md', [], settings.overwrite, 'accuracy_out')
    from konohana import inference
    from konohana.evaluation import cost

    device = inference.pick_device(settings.device)
    chosen = peer_settings(settings, out)
    frames, class_names = read_data(settings)
    rows, models = {}, {}
    for i, (name, own) in enumerate(chosen.items(), start=1):
        print(f'[{i}/{len(chosen)}] {name}')
        if own is None:
            models[name], rows[name] = evaluate_yolo(name, out / name, frames, class_names, settings, device)
        else:
            models[name], rows[name] = train_own(name, own, out / name, settings)
        rows[name]['M parameters'] = cost.count_parameters(models[name]) / 1e6
        rows[name]['GMAC'] = cost.count_macs(models[name], settings.img_hw) / 1e9
        files.write_text(out / 'accuracy.md', table(rows, settings, device), remember=True)
    time_peers(rows, models, frames[1], settings, device)
    files.write_text(out / 'accuracy.md', table(rows, settings, device), remember=True)
    print(table(rows, settings, device))
    print(f'Table: {out / "accuracy.md"}')


def peer_settings(settings, out):
    """{peer: its variables of _train.py, checked, or None for a YOLO}."""
    base = {
        **{key: getattr(settings, key) for key in ('img_hw', 'batch_size', 'seed', 'device', 'progress')},
        'konohana_dataset_path': settings.path(settings.konohana_dataset_path),
        'max_minutes': settings.minutes,
        **({'pretrained': 'backbone'} if settings.pretrained else {}),
    }
    peers = {
        name: changes for name, changes in settings.peers.items() if changes is not None or not settings.pretrained
    }
    if not peers:
        raise UserError("peers={}: name at least one, like {'ours': {}}.")
    return {
        name: None if changes is None else compare.settings_of(name, changes, base, out)
        for name, changes in peers.items()
    }


def read_data(settings):
    """((frames to train on, frames to evaluate on), names of the classes)."""
    from konohana.data.reading import class_names_of, read_frames, unknown_names
    from konohana.toy.writer import draw_default

    root = settings.path(settings.konohana_dataset_path)
    draw_default(root, ROOT, progress=settings.progress)
    frames, problems = read_frames(root, ['train', 'val'], IGNORE_CLASS, settings.progress)
    class_names = class_names_of(root, frames[0])
    problems += unknown_names(frames[1], class_names)
    if problems:
        raise UserError(f'{root}: {problems[0]} (and {len(problems) - 1} more problems). Fix the data first.')
    return frames, class_names


def evaluate_yolo(name, folder, frames, class_names, settings, device, data=None, **options):
    """Train and evaluate a YOLO of ultralytics, see `train_yolo` -> (detector, row of the table)."""
    import torch

    from benchmarks.yolo import TrainedYolo
    from konohana.data.dataset import Frames
    from konohana.evaluation.predict import predict_dataset
    from konohana.evaluation.summary import evaluate

    started = time.monotonic()
    weights = train_yolo(name, folder, frames, class_names, settings, device, data, **options)
    print(f'{(time.monotonic() - started) / 60:.1f} minutes')
    model = TrainedYolo(name, weights, settings.img_hw).to(device, memory_format=torch.channels_last)
    found = predict_dataset(model, Frames(frames[1], class_names), progress=settings.progress)
    return model, {**row_of(evaluate(frames[1], found, class_names)), 'epochs': yolo_epochs(folder)}


def train_own(name, own, folder, settings):
    """Train a detector of this project, which evaluates itself -> (detector, row of the table)."""
    from konohana import inference
    from konohana.training.run import is_finished

    compare.check_begun(folder, own)
    if not is_finished(compare.state_of(folder, own), own):
        compare.train(name, own)
    state = compare.state_of(folder, own)
    if not is_finished(state, own):
        raise KeyboardInterrupt  # Ctrl-C reached _train.py only
    model = inference.load(folder / inference.weights_name(own.use_res2block), settings.device, fuse=False)
    return model, {**row_of(state['figures']), 'epochs': compare.result_of(folder, state)['epochs']}


def time_peers(rows, models, frames, settings, device):
    """Add the time that a picture takes to the rows, changed in place; the models' batch norms are folded."""
    import torch

    from konohana.data.images import load_image
    from konohana.detectors.fusing import fuse_batch_norms
    from konohana.evaluation import cost

    for name, model in models.items():
        if settings.peers[name] is None:
            model.network.fuse(verbose=False)
        else:
            fuse_batch_norms(model)
    picture = torch.from_numpy(load_image(frames[len(frames) // 2].path)).permute(2, 0, 1).float() / 255
    picture = torch.nn.functional.interpolate(picture[None], settings.img_hw, mode='bilinear', antialias=True)[0]
    times = cost.time_models(models, picture.to(device), settings.n_runs)
    first = next(iter(times))
    for name, seconds in times.items():
        rows[name]['ms a picture'] = statistics.median(seconds) * 1e3
        # The ratio of two consecutive runs, so that both saw the same machine.
        rows[name]['against ours'] = statistics.median(a / b for a, b in zip(seconds, times[first], strict=True))


if __name__ == '__main__':
    run(main)
