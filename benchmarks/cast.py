"""How well a cast of a few pictures names people: python benchmarks/cast.py konohana_dataset_path=my_show

Detects in both splits of a dataset, takes 1, 5 and 20 people of each character from `train` as the cast, at random and
several times, and names the found people of `val` by it, without training: the share of the characters that get their
own name, and the share of strangers that get one. Strangers are people under a shared name ("other"), and, one after
the other, each character that is left out of the cast. Beside it stand the names learned, where the weights know them.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from konohana.cast import IGNORE_CLASS
from konohana.errors import UserError
from konohana.settings import read, require, run

konohana_dataset_path = 'toy_show'  # folder of the dataset; the default, a toy show, is drawn when it is not there
cast_split = 'train'  # split that the pictures of the cast are from
split = 'val'  # split that is judged
weights = ''  # weights file with a second look; '' takes weights/net.pt
pictures = (1, 5, 20)  # pictures of each character
n_draws = 5  # casts that are drawn of each size
n_pool = 60  # people of each character that casts are drawn from, spread over the split
cast_threshold = 0.6  # likeness below which somebody is unknown
generic = False  # compare the mean of the detector's own features in the box instead of the second look's embeddings
curve_out = ''  # picture of strangers named against characters named, .png; '' for none
ignore_class = IGNORE_CLASS  # boxes with this name mark regions that are not counted
device = ''  # 'cuda', 'mps' or 'cpu'; '' takes the fastest there is
overwrite = False  # also replace a curve_out that this program did not write
progress = True  # show progress bars

ROOT = Path(__file__).resolve().parent.parent
FOUND = 0.5  # lowest IoU of a detection and the labelled person
HEAD = '| cast | named | strangers named | left out, named | nearest, all of the cast |\n|---|---|---|---|---|'


def main(arguments=None):
    settings = read(globals(), arguments, folder=ROOT)
    require(settings, n_draws=(1, 1000), n_pool=(1, None), cast_threshold=(-1, 1))
    from konohana import files, load
    from konohana.cast import SHARED_NAMES
    from konohana.toy.writer import draw_default

    root = settings.path(settings.konohana_dataset_path)
    if settings.curve_out:
        files.claim(settings.path(settings.curve_out), [root], settings.overwrite, 'curve_out')
    draw_default(root, ROOT, [settings.cast_split, settings.split], settings.progress)
    backend = 'torch' if settings.generic else 'auto'
    model = load(settings.path(settings.weights) if settings.weights else None, settings.device, backend=backend)
    if not (model.looks_again or settings.generic):
        raise UserError('weights: they have no second look. generic=True compares the features of the detector itself.')
    model.looks_at_everyone = True  # those, too, whose names it is sure of
    pool = people(model, root, settings.cast_split, settings, settings.n_pool)
    judged = people(model, root, settings.split, settings)
    names = sorted({person['name'] for person in pool} - set(SHARED_NAMES))
    counts = [sum(person['name'] in names for person in group) for group in (pool, judged)]
    print(
        f'{len(names)} characters; found in {settings.cast_split}: {counts[0]}, in {settings.split}: {counts[1]} and '
        f'{len(judged) - counts[1]} strangers; threshold {settings.cast_threshold:g}'
    )
    print(HEAD)
    learned(judged, names)
    curves = {}
    for n in settings.pictures:
        draws = [judge(pool, judged, names, n, seed) for seed in range(settings.n_draws)]
        print(row(f'{n}', draws, settings.cast_threshold))
        curves[n] = curve(draws)
    print_curves(curves)
    if settings.curve_out:
        draw_curves(settings.path(settings.curve_out), curves)


def people(model, root, split, settings, most=None):
    """The found people of a split that are labelled: list of dicts of `name`, `embedding` and `learned`.

    most: of each name; the frames of so many are looked at.
    """
    from konohana.data.images import load_image
    from konohana.data.reading import read_frames, report
    from konohana.progress import progress_bar

    (samples,), problems = read_frames(root, [split], settings.ignore_class, settings.progress)
    report(problems, False)
    samples = samples if most is None else spread(samples, most)
    found = []
    with progress_bar(split, len(samples), settings.progress) as bar:
        for done, sample in enumerate(samples, 1):
            image = load_image(sample.path)
            (detections,) = model.detect([image])
            if settings.generic:
                detections = with_features(model, image, detections)
            found += matched(sample, detections, model.class_names)
            bar.update(done)
    return found


def spread(samples, most):
    """The frames that hold at most so many people of each name, spread evenly over the frames with this name."""
    chosen = set()
    for name in sorted({name for sample in samples for name in sample.names}):
        own = [i for i, sample in enumerate(samples) if name in sample.names]
        chosen.update(own[k * len(own) // most] for k in range(most) if most < len(own))
        chosen.update(own if most >= len(own) else ())
    return [samples[i] for i in sorted(chosen)]


def matched(sample, found, class_names):
    """The detections of a picture that are labelled people, see `people`."""
    from konohana.boxes import iou

    if not len(sample.boxes) or not len(found['boxes']):
        return []
    overlaps, rows = iou(sample.boxes, found['boxes']), []
    for i, name in enumerate(sample.names):
        best = int(overlaps[i].argmax())
        if overlaps[i, best] >= FOUND and not sample.difficult[i] and found['embeddings'][best].any():
            learned_name = class_names[int(found['labels'][best]) - 1]
            rows.append({'name': name, 'embedding': found['embeddings'][best], 'learned': learned_name})
    return rows


def with_features(model, image, found):
    """Detections with, as `embeddings`, the neck's features in each box, of unit length."""
    import torch
    from torchvision.ops import roi_align

    from konohana.detectors.konohana.network import STRIDE

    with torch.inference_mode():
        picture = torch.from_numpy(image).permute(2, 0, 1).float() / 255
        batch, _ = model.transform([picture])
        features = model.neck(model.backbone(batch.tensors))
        boxes = torch.from_numpy(found['boxes']) * (batch.image_sizes[0][1] / image.shape[1] / STRIDE)
        cells = roi_align(features, [boxes], (6, 3), aligned=True)
        return {**found, 'embeddings': torch.nn.functional.normalize(cells.flatten(1), dim=1).numpy()}


def judge(pool, judged, names, n, seed):
    """One cast, drawn at random: dict of what it says of the people that are judged.

    Returns:
        `likeness` (people x characters), `names` (of the columns), `truth` (of the rows), and `left_out`: how near
        the characters' people are to the rest of the cast, once their character is left out of it.
    """
    import numpy as np

    from konohana.own_cast import Characters

    rng, pictures = np.random.default_rng(seed), []
    for name in names:
        own = [person['embedding'] for person in pool if person['name'] == name]
        pictures.append(np.stack([own[i] for i in rng.permutation(len(own))[:n]]))
    embeddings = np.stack([person['embedding'] for person in judged])
    truth, left_out = np.array([person['name'] for person in judged]), []
    for i, name in enumerate(names):
        rest = pictures[:i] + pictures[i + 1 :]
        if rest and (truth == name).any():
            left_out.append(Characters(rest).likeness(embeddings[truth == name]).max(axis=1))
    return {
        'likeness': Characters(pictures).likeness(embeddings),
        'names': np.array(names),
        'truth': truth,
        'left_out': np.concatenate(left_out) if left_out else np.full(1, np.nan),
    }


def rates(draw, threshold):
    """(characters that get their own name, strangers that get a name, characters left out of the cast that get one)."""
    import numpy as np

    likeness, names, truth = draw['likeness'], draw['names'], draw['truth']
    known = np.isin(truth, names)
    right = (names[likeness.argmax(axis=1)] == truth) & (likeness.max(axis=1) >= threshold)
    strangers = likeness[~known].max(axis=1) >= threshold
    named = strangers.mean() if len(strangers) else float('nan')
    return right[known].mean(), named, (draw['left_out'] >= threshold).mean()


def learned(judged, names):
    """Print what the names learned say of the same people, where the weights know these characters."""
    import numpy as np

    truth, said = (np.array([person[key] for person in judged]) for key in ('name', 'learned'))
    if not np.isin(said, names).any():
        return
    known = np.isin(truth, names)
    strangers = np.isin(said[~known], names)
    false = f'{strangers.mean():.1%}' if len(strangers) else '–'
    print(f'| names learned | {(said == truth)[known].mean():.1%} | {false} | – | – |')


def row(title, draws, threshold):
    """One row of the table: the mean of all casts, and how far they are apart."""
    import numpy as np

    at = np.array([rates(draw, threshold) for draw in draws])
    nearest = np.mean([rates(draw, -2.0)[0] for draw in draws])
    cells = [f'{mean:.1%} ± {spread:.1%}' for mean, spread in zip(at.mean(axis=0), at.std(axis=0), strict=True)]
    cells = [cell if 'nan' not in cell else '–' for cell in cells]
    return f'| {title} | {" | ".join(cells)} | {nearest:.1%} |'


def curve(draws):
    """Rates at each threshold: list of (threshold, named, strangers named, left out named), means of all casts."""
    import numpy as np

    thresholds = np.arange(0.0, 0.96, 0.05)
    return [(t, *np.mean([rates(draw, t) for draw in draws], axis=0)) for t in thresholds]


def print_curves(curves):
    """The curves as a table: of each size of the cast named / strangers named / left out named."""
    print('\n| threshold | ' + ' | '.join(f'{n}' for n in curves) + ' |\n|---|' + '---|' * len(curves))
    for rows in zip(*curves.values(), strict=True):
        cells = [' / '.join('–' if value != value else f'{value:.0%}' for value in values) for _, *values in rows]
        print(f'| {rows[0][0]:.2f} | {" | ".join(cells)} |')


def draw_curves(path, curves):
    """Draw characters named against strangers named."""
    import io

    from matplotlib.figure import Figure

    from konohana import files

    figure = Figure(figsize=(6, 4.5), layout='constrained')
    axes = figure.add_subplot()
    for n, points in curves.items():
        _, named, strangers, left_out = zip(*points, strict=True)
        false = left_out if strangers[0] != strangers[0] else strangers
        axes.plot(false, named, marker='.', label=f'{n} picture{"s" * (n > 1)} of each')
    axes.set(xlabel='strangers named falsely', ylabel='characters named rightly', xlim=(0, 1), ylim=(0, 1))
    axes.grid(alpha=0.3)
    axes.legend(loc='lower right')
    data = io.BytesIO()
    figure.savefig(data, format='png', dpi=120)
    files.write_bytes(path, data.getvalue(), remember=True)


if __name__ == '__main__':
    run(main)
