"""Several trainings of the flagship, judged side by side and together: python benchmarks/seeds.py weights="a.pt, b.pt"

One row for each weights file with the metrics of docs/accuracy.md, then one for all of them together: the boxes of all
go into one NMS and vote (an ensemble, Lakshminarayanan et al. 2017, https://arxiv.org/abs/1612.01474). It takes as many
times the time, so it is not for use; it tells what one network misses by the luck of its seed. Together they find more
at the same threshold, right and wrong: compare AP, not precision, recall and F1.
"""

import copy
import math
import sys
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from konohana import inference
from konohana.cast import IGNORE_CLASS
from konohana.data.dataset import Frames
from konohana.data.reading import read_frames, report
from konohana.detectors.konohana.detector import Konohana
from konohana.errors import UserError
from konohana.evaluation.predict import predict_dataset
from konohana.evaluation.summary import evaluate, metrics_at_threshold
from konohana.settings import override, require, resolve, run
from konohana.toy.writer import draw_default

weights = 'weights/net.pt'  # weights files of the flagship, with commas between them
konohana_dataset_path = 'toy_show'  # dataset to judge by; toy_show is drawn when it is not there
split = 'val'  # which of its splits
threshold = 0.5  # of precision, recall, F1 and names
min_objects = 10  # "frequent" are names with so many objects or more: what single objects do to AP is luck
ignore_class = IGNORE_CLASS  # boxes of this name mark regions that are not counted
skip_bad_files = False  # go on without files that have problems, instead of stopping
device = 'cpu'  # 'cuda', 'mps', 'cpu', or '' for the fastest there is
progress = True  # show progress bars

COLUMNS = ('AP', 'AP50', 'found, AP50', 'found, AP75', 'frequent, AP50', 'precision', 'recall', 'F1', 'rightly named')


def together(models):
    """Flagships that know the same names -> one flagship that looks with all of them.

    NMS and voting (`Konohana.postprocess`) get the cells of all networks at once: boxes of one character are averaged,
    from whichever network they are, and so are their names. The first network does the rest. `models` do not change.
    """
    one = copy.deepcopy(models[0])

    def decode(maps):
        seen = [model.decode(of_model) for model, of_model in zip(models, maps, strict=True)]
        return {key: torch.cat([s[key] for s in seen], dim=0 if key == 'points' else 1) for key in seen[0]}

    one.raw_outputs = lambda tensors: [model.raw_outputs(tensors) for model in models]
    one.decode = decode
    return one


def row_of(frames, detections, class_names):
    """The figures in the order of `COLUMNS`, 0 to 1, nan where there is nothing to measure."""
    figures = evaluate(frames, detections, class_names)
    objects, ap50 = figures['objects_per_class'], figures['AP50_per_class']
    frequent = [ap50[name] for name in class_names if objects[name] >= min_objects]
    seen = metrics_at_threshold(frames, detections, class_names, threshold)
    return [
        *(figures[key] for key in ('AP', 'AP50', 'AP50_agnostic', 'AP75_agnostic')),
        sum(frequent) / len(frequent) if frequent else math.nan,
        *(seen[key] for key in ('precision', 'recall', 'f1', 'named')),
    ]


def line_of(cells):
    """A line of a Markdown table."""
    return '| ' + ' | '.join(cells) + ' |'


def main():
    require(override(globals()), threshold=(0, 1), min_objects=(1, None))
    root = Path(__file__).resolve().parent  # relative paths start at its parent, the repository's root
    files = [resolve(root, name.strip()) for name in weights.split(',') if name.strip()]
    if not files:
        raise UserError("weights='': name at least one file, like weights='weights/net.pt'.")
    models = [inference.load(file, device) for file in files]
    for file, model in zip(files, models, strict=True):
        if not isinstance(model, Konohana):
            raise UserError(f'{file}: not a weights file of the flagship, detector=konohana.')
        if (model.class_names, model.img_hw) != (models[0].class_names, models[0].img_hw):
            raise UserError(f'{file}: it has other names, or another order of them, or another img_hw than {files[0]}.')

    folder = resolve(root, konohana_dataset_path)
    draw_default(folder, root.parent, [split], progress)
    (frames,), problems = read_frames(folder, [split], ignore_class, progress)
    report(problems, skip_bad_files)
    if not frames:
        raise UserError(f'{folder}: no usable frame in split {split!r}.')
    class_names = models[0].class_names
    class_names = [*class_names, *sorted({name for frame in frames for name in frame.names} - set(class_names))]
    chosen = {str(file): model for file, model in zip(files, models, strict=True)}
    if len(models) > 1:
        chosen['together'] = together(models)
    print(
        f'{folder}, {split}, {len(frames)} frames. Threshold {threshold:g}. Frequent: {min_objects} objects or more.\n'
    )
    print(line_of(['weights', *COLUMNS]))
    print('|---|' + '---:|' * len(COLUMNS))
    for name, model in chosen.items():
        detections = predict_dataset(model, Frames(frames, class_names), title=Path(name).name, progress=progress)
        row = row_of(frames, detections, class_names)
        print(line_of([name, *('–' if math.isnan(value) else f'{value:.3f}' for value in row)]))


if __name__ == '__main__':
    run(main)
