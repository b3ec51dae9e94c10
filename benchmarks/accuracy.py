"""How good the flagship is beside its peers, trained alike: python benchmarks/accuracy.py konohana_dataset_path=my_show

All learn the same frames at the same size for the same minutes on the same device, then are judged on the same val:
detectors of this project by _train.py (through tools/compare.py, so that a stopped run goes on), the YOLOs by
ultralytics' own trainer where that is installed, from its .yaml files. One table (accuracy.md) says how good, large and
quick each is. Minutes are what is equal, not epochs: a quick network sees more frames. On CPUs with AMX _train.py
computes in bfloat16, ultralytics' trainer does not: 'amp': False among the peers' variables makes them alike.
"""

import csv
import json
import shutil
import statistics
import sys
import time
from pathlib import Path

import torch
from torchvision.transforms.v2 import functional as TF

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks import speed
from konohana import files, inference
from konohana.cast import IGNORE_CLASS
from konohana.data.dataset import Frames
from konohana.data.images import load_image
from konohana.data.reading import class_names_of, read_frames
from konohana.detectors.fusing import fuse_batch_norms
from konohana.detectors.transform import fit_size
from konohana.errors import UserError
from konohana.evaluation import cost
from konohana.evaluation.predict import predict_dataset
from konohana.evaluation.summary import evaluate
from konohana.settings import Settings, override, require, resolve, run
from konohana.toy.writer import draw_default
from konohana.training.run import is_finished
from tools import compare

ROOT = Path(__file__).resolve().parent.parent

# Each peer's name, and its variables of _train.py; None for a YOLO of ultralytics.
peers = {
    'ours': {},
    'ours, Res2': {'use_res2block': True},
    'ssdlite320_mobilenet_v3_large': {'detector': 'ssdlite320_mobilenet_v3_large'},
    'fcos_resnet50_fpn': {'detector': 'fcos_resnet50_fpn'},
    'fasterrcnn_resnet50_fpn_v2': {'detector': 'fasterrcnn_resnet50_fpn_v2'},
    'yolo11n': None,
    'yolo26n': None,
}
pretrained = False  # True: detectors of this project start from ImageNet's weights; the YOLOs are left out
konohana_dataset_path = 'toy_show'  # the dataset's folder, with the splits train and val
minutes = 30.0  # minutes that each peer trains, evaluation not counted
img_hw = (360, 640)  # height and width that frames are resized to
batch_size = 16  # frames in a batch
seed = 0  # of all peers
device = ''  # 'cuda', 'mps', 'cpu', or '' for the fastest there is
n_runs = 30  # timed runs of each peer
accuracy_out = 'logs/accuracy'  # folder of accuracy.md and a folder for each peer
progress = True  # show progress bars

COLUMNS = ('AP', 'AP50', 'AP75', 'found AP50', 'M parameters', 'GMAC', 'ms a picture', 'against ours', 'epochs')


def yolo_dataset(folder, train_frames, val_frames, class_names):
    """Write frames as ultralytics reads them: images/<split>, labels/<split> and data.yaml, whose path is returned."""
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


def train_yolo(name, folder, frames, class_names, chosen):
    """Train a YOLO by ultralytics' trainer for `minutes`, from its .yaml; returns the file of its weights."""
    try:
        from ultralytics import YOLO
    except ImportError:
        raise UserError(f'peer {name!r} needs ultralytics: pip install ultralytics, or take it out of peers.') from None
    weights = folder / 'run' / 'weights' / 'last.pt'
    done = folder / 'done.txt'
    if not done.is_file():
        data = yolo_dataset(folder / 'data', *frames, class_names)
        YOLO(f'{name}.yaml').train(
            data=str(data), time=minutes / 60, epochs=10_000, imgsz=max(img_hw), batch=batch_size, seed=seed,
            device=str(chosen), project=str(folder), name='run', exist_ok=True,
            pretrained=False, val=False, plots=False,
            workers=2, verbose=False,
        )  # fmt: skip
        files.write_text(done, 'trained\n')
    return weights


def yolo_epochs(folder):
    """How many epochs ultralytics' trainer has done, from its results.csv; None where that is not there."""
    file = folder / 'run' / 'results.csv'
    if not file.is_file():
        return None
    lines = file.read_text(encoding='utf-8').splitlines()
    return float(list(csv.DictReader(lines))[-1]['epoch'])


class TrainedYolo(speed.Yolo):
    """A YOLO with trained weights, under the contract; as many and as unsure boxes as the other detectors give.

    Pictures (float 3 x H x W RGB, 0 to 1) are resized inside, as the other detectors do it, to the size it was trained
    at; boxes are in pixels of the picture given.
    """

    limits = {'conf_thres': 0.001, 'iou_thres': 0.7, 'max_det': 100, 'multi_label': True}  # noqa: RUF012

    def __init__(self, name, weights):
        super().__init__(name, fuse=False)
        from ultralytics import YOLO

        self.network = YOLO(str(weights), task='detect').model.float().eval().requires_grad_(False)
        self.eval()  # ultralytics' networks answer otherwise while training

    def forward(self, images):
        detections = []
        for image in images:
            height, width = image.shape[-2:]
            size = fit_size(height, width, img_hw)
            resized = image if size == (height, width) else TF.resize(image, list(size), antialias=True)
            (found,) = super().forward([resized])
            found['boxes'] = found['boxes'] * found['boxes'].new_tensor([width / size[1], height / size[0]] * 2)
            detections.append(found)
        return detections


def row_of(figures):
    """The figures of the table, from evaluation's."""
    return {
        **{key: figures[key] for key in ('AP', 'AP50', 'AP75')},
        'found AP50': figures['AP50_agnostic'],
    }


def table(rows, chosen):
    """The comparison as Markdown."""
    start = 'from ImageNet weights' if pretrained else 'from nothing'
    lines = [
        f'{minutes:g} minutes of training each on {chosen}, {start}, {img_hw[1]} x {img_hw[0]}, seed {seed}.',
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


def main():
    require(override(globals()), minutes=(0.01, None), n_runs=(1, None), batch_size=(1, None))
    out, root = resolve(ROOT / '_train.py', accuracy_out), resolve(ROOT / '_train.py', konohana_dataset_path)
    chosen = inference.pick_device(device)
    vars(compare).update(
        konohana_dataset_path=str(root), max_minutes=minutes, seed=seed, device=device, compare_out=str(out),
        progress=progress, common={'img_hw': img_hw, 'batch_size': batch_size},
    )  # fmt: skip
    if pretrained:
        vars(compare)['common']['pretrained'] = 'backbone'
    chosen_peers = {name: changes for name, changes in peers.items() if changes is not None or not pretrained}
    if not chosen_peers:
        raise UserError("peers={}: name at least one, like {'ours': {}}.")
    settings = {name: compare.settings_of(name, c) for name, c in chosen_peers.items() if c is not None}
    draw_default(root, ROOT, progress=progress)
    (train_frames, val_frames), problems = read_frames(root, ['train', 'val'], IGNORE_CLASS, progress)
    if problems:
        raise UserError(f'{root}: {problems[0]} (and {len(problems) - 1} more problems). Mend the data first.')
    class_names = class_names_of(root, train_frames)
    val_set = Frames(val_frames, class_names)

    rows, models = {}, {}
    for i, name in enumerate(chosen_peers, start=1):
        print(f'[{i}/{len(chosen_peers)}] {name}')
        folder = out / name
        if chosen_peers[name] is None:
            started = time.monotonic()
            models[name] = TrainedYolo(name, train_yolo(name, folder, (train_frames, val_frames), class_names, chosen))
            print(f'{(time.monotonic() - started) / 60:.1f} minutes')
            models[name].to(chosen, memory_format=torch.channels_last)
            found = predict_dataset(models[name], val_set, progress=progress)
            figures = evaluate(val_frames, found, class_names)
            rows[name] = {**row_of(figures), 'epochs': yolo_epochs(folder)}
        else:
            compare.check_begun(folder, settings[name])
            state = compare.state_of(folder, settings[name])
            if not is_finished(state, Settings(**settings[name])):
                compare.train(name, settings[name])
                state = compare.state_of(folder, settings[name])
            if not is_finished(state, Settings(**settings[name])):
                raise KeyboardInterrupt  # _train.py alone was stopped
            file = folder / inference.weights_name(settings[name]['use_res2block'])
            models[name] = inference.load(file, device, fuse=False)
            rows[name] = {**row_of(state['figures']), 'epochs': compare.result_of(folder, state)['epochs']}
        rows[name]['M parameters'] = cost.count_parameters(models[name]) / 1e6
        rows[name]['GMAC'] = cost.count_macs(models[name], img_hw) / 1e9
        files.write_text(out / 'accuracy.md', table(rows, chosen))

    for name, model in models.items():
        if chosen_peers[name] is None:
            model.network.fuse(verbose=False)
        else:
            fuse_batch_norms(model)
    picture = torch.from_numpy(load_image(val_frames[len(val_frames) // 2].path)).permute(2, 0, 1).float() / 255
    picture = torch.nn.functional.interpolate(picture[None], img_hw, mode='bilinear', antialias=True)[0]
    times = cost.time_models(models, picture.to(chosen), n_runs)
    first = next(iter(times))
    for name, seconds in times.items():
        rows[name]['ms a picture'] = statistics.median(seconds) * 1e3
        # The ratio of two runs that followed one another, so that both saw the same machine.
        rows[name]['against ours'] = statistics.median(a / b for a, b in zip(seconds, times[first], strict=True))
    files.write_text(out / 'accuracy.md', table(rows, chosen))
    print(table(rows, chosen))
    print(f'Table: {out / "accuracy.md"}')


if __name__ == '__main__':
    run(main)
