"""Evaluate trainings of the default network one by one and together: python benchmarks/seeds.py weights="a.pt, b.pt"

Prints one row for each weights file with the metrics of docs/accuracy.md, then one for all files together: the boxes
of all networks go into one NMS and vote (an ensemble, Lakshminarayanan et al. 2017, https://arxiv.org/abs/1612.01474).
An ensemble of n networks takes n times as long, so it is not for everyday use; it shows what one network misses because
of its seed. Together they find more at the same threshold, right and wrong: compare AP, not precision, recall and F1.
"""

import copy
import math
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

# PyTorch and what needs it are imported where they are used, so that --help answers at once.
from konohana.cast import IGNORE_CLASS
from konohana.errors import UserError
from konohana.settings import read, require, run

weights = 'weights/net.pt'  # weights files of the default network, with commas between them
konohana_dataset_path = 'toy_show'  # dataset to evaluate on; toy_show is drawn if it is missing
split = 'val'  # its split to evaluate on
threshold = 0.5  # of precision, recall, F1 and names, 0 to 1
min_objects = 10  # classes with at least this many objects count as frequent; with fewer, AP is luck
ignore_class = IGNORE_CLASS  # boxes of this name mark regions that are not counted
skip_bad_files = False  # go on without files that have problems, instead of stopping
device = 'cpu'  # 'cuda', 'mps', 'cpu', or '' for the fastest there is
progress = True  # show progress bars

ROOT = Path(__file__).resolve().parent.parent
COLUMNS = ('AP', 'AP50', 'found, AP50', 'found, AP75', 'frequent, AP50', 'precision', 'recall', 'F1', 'rightly named')


def together(models):
    """Combine flagships with the same classes into one.

    NMS and voting (`Konohana.postprocess`) get the cells of all networks at once: boxes of one character are averaged,
    whichever network found them, and so are their classes. The first network does the rest. `models` do not change.
    """
    import torch

    one = copy.deepcopy(models[0])

    def decode(maps):
        seen = [model.decode(of_model) for model, of_model in zip(models, maps, strict=True)]
        return {key: torch.cat([s[key] for s in seen], dim=0 if key == 'points' else 1) for key in seen[0]}

    one.raw_outputs = lambda tensors: [model.raw_outputs(tensors) for model in models]
    one.decode = decode
    return one


def row_of(frames, detections, class_names, settings):
    """The metrics in the order of `COLUMNS`, 0 to 1, nan where there is nothing to measure."""
    from konohana.evaluation.summary import evaluate, metrics_at_threshold

    metrics = evaluate(frames, detections, class_names)
    objects, ap50 = metrics['objects_per_class'], metrics['AP50_per_class']
    frequent = [ap50[name] for name in class_names if objects[name] >= settings.min_objects]
    seen = metrics_at_threshold(frames, detections, class_names, settings.threshold)
    return [
        *(metrics[key] for key in ('AP', 'AP50', 'AP50_agnostic', 'AP75_agnostic')),
        sum(frequent) / len(frequent) if frequent else math.nan,
        *(seen[key] for key in ('precision', 'recall', 'f1', 'named')),
    ]


def line_of(cells):
    """A line of a Markdown table."""
    return '| ' + ' | '.join(cells) + ' |'


def load_models(paths, device):
    """The flagships of weights files; UserError for another detector, or other classes than the first file's."""
    from konohana import inference
    from konohana.detectors.konohana.detector import Konohana

    models = [inference.load(path, device, backend='torch') for path in paths]
    for path, model in zip(paths, models, strict=True):
        if not isinstance(model, Konohana):
            raise UserError(f'{path}: not a weights file of the default network, detector=konohana.')
        if (model.class_names, model.img_hw) != (models[0].class_names, models[0].img_hw):
            raise UserError(f'{path}: its class_names (or their order) or its img_hw differ from those of {paths[0]}.')
    return models


def read_split(settings):
    """The frames to evaluate on."""
    from konohana.data.reading import frames_of_split
    from konohana.toy.writer import draw_default

    folder = settings.path(settings.konohana_dataset_path)
    draw_default(folder, ROOT, [settings.split], settings.progress)
    options = settings.ignore_class, settings.progress, settings.skip_bad_files
    frames = frames_of_split(folder, settings.split, *options)
    print(f'{folder}, {settings.split}, {len(frames)} frames.')
    return frames


def main(arguments=None):
    settings = read(globals(), arguments, folder=ROOT)
    require(settings, threshold=(0, 1), min_objects=(1, None))
    paths = [settings.path(name.strip()) for name in settings.weights.split(',') if name.strip()]
    if not paths:
        raise UserError("weights='': name at least one file, like weights='weights/net.pt'.")
    from konohana.data.dataset import Frames
    from konohana.evaluation.predict import predict_dataset

    models = load_models(paths, settings.device)
    frames = read_split(settings)
    class_names = models[0].class_names
    class_names = [*class_names, *sorted({name for frame in frames for name in frame.names} - set(class_names))]
    chosen = {str(path): model for path, model in zip(paths, models, strict=True)}
    if len(models) > 1:
        chosen['together'] = together(models)
    print(f'Threshold {settings.threshold:g}. Frequent: {settings.min_objects} objects or more.\n')
    print(line_of(['weights', *COLUMNS]))
    print('|---|' + '---:|' * len(COLUMNS))
    for name, model in chosen.items():
        title, data = Path(name).name, Frames(frames, class_names)
        detections = predict_dataset(model, data, title=title, progress=settings.progress)
        row = row_of(frames, detections, class_names, settings)
        print(line_of([name, *('–' if math.isnan(value) else f'{value:.3f}' for value in row)]))


if __name__ == '__main__':
    run(main)
