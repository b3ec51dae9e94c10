"""How well a cast of a few pictures names people: python benchmarks/cast.py konohana_dataset_path=my_show

Detects in both splits of a dataset, takes 1, 5 and 20 people of each character from `train` as the cast, at random and
several times, and names the found people of `val` by it, without training: the share of the characters that get their
own name, and the share of strangers that get one. Strangers are people under a shared name ("other"), and, one after
the other, each character that is left out of the cast. Beside it stand the names learned, where the weights know them.
"""

import contextlib
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from konohana.cast import IGNORE_CLASS
from konohana.errors import UserError
from konohana.settings import read, require, require_whole, run

konohana_dataset_path = 'toy_show'  # folder of the dataset; the default, a toy show, is drawn when it is not there
cast_split = 'train'  # split that the pictures of the cast are from
split = 'val'  # split that is judged
weights = ''  # weights file with a second look; '' takes weights/net.pt
pictures = [1, 5, 20]  # pictures of each character, a row of the table each
n_draws = 5  # casts that are drawn of each size
n_pool = 60  # people of each character that casts are drawn from, spread over the split
cast_threshold = 0.6  # likeness below which somebody is unknown
plain = False  # without the spread of people that tools/measure_spread.py has measured
curve_out = ''  # picture of strangers named against characters named, .png; '' for none
ignore_class = IGNORE_CLASS  # boxes with this name mark regions that are not counted
device = ''  # 'cuda', 'mps' or 'cpu'; '' takes the fastest there is
overwrite = False  # also replace a curve_out that this program did not write
progress = True  # show progress bars

ROOT = Path(__file__).resolve().parent.parent
SMALLEST = 32  # pixels: people less high or wide than this are no pictures of a cast
HEAD = '| cast | named | strangers named | left out, named | nearest, all of the cast | strangers at 90%, 85% |'


def main(arguments=None):
    settings = read(globals(), arguments, folder=ROOT)
    require(settings, n_draws=(1, 1000), n_pool=(1, None), cast_threshold=(-1, 1))
    require_whole(settings, pictures=1)
    from konohana import files, load, spread
    from konohana.cast import SHARED_NAMES
    from konohana.data.reading import frames_of_split
    from konohana.labelled import found_people
    from konohana.toy.writer import draw_default

    root = settings.path(settings.konohana_dataset_path)
    if settings.curve_out:
        files.claim(settings.path(settings.curve_out), [root], settings.overwrite, 'curve_out')
    draw_default(root, ROOT, [settings.cast_split, settings.split], settings.progress)
    model = load(settings.path(settings.weights) if settings.weights else None, settings.device)
    if not model.looks_again:
        raise UserError('weights: they have no second look. Take weights trained with second_look=True.')
    of_people = None if settings.plain else spread.of(model)
    shared = [name in SHARED_NAMES for name in model.class_names]
    options = settings.ignore_class, settings.progress
    pool = cut_people(model, frames_of_split(root, settings.cast_split, *options), settings)
    judged = found_people(model, frames_of_split(root, settings.split, *options), settings.split, settings.progress)
    if not pool or not judged:
        raise UserError(
            f'{root}: nobody with a name is found in {settings.cast_split!r}, or nobody in {settings.split!r}.'
        )
    known = sum(person['name'] in pool for person in judged)
    print(
        f'{len(pool)} characters, {sum(map(len, pool.values()))} pictures of them in {settings.cast_split}; found in '
        f'{settings.split}: {known}, and {len(judged) - known} strangers; threshold {settings.cast_threshold:g}'
    )
    print(HEAD + '\n|---|---|---|---|---|---|')
    learned(judged, list(pool))
    curves = {}
    for n in settings.pictures:
        draws = [judge(pool, judged, n, seed, of_people, shared) for seed in range(settings.n_draws)]
        print(row(f'{n}', draws, settings.cast_threshold))
        curves[n] = curve(draws)
    print_curves(curves)
    if settings.curve_out:
        draw_curves(settings.path(settings.curve_out), curves)


def cut_people(model, samples, settings):
    """Pictures of the characters as tools/make_cast.py cuts them out, as a cast sees them.

    Returns:
        {name: list of what `own_cast.look_at` returns}, without pictures that a cast cannot use.
    """
    from konohana.cast import SHARED_NAMES
    from konohana.data.images import load_image
    from konohana.labelled import picture_of
    from konohana.own_cast import look_at
    from konohana.progress import progress_bar

    boxes = {}
    for sample in samples:
        for name, box, difficult in zip(sample.names, sample.boxes, sample.difficult, strict=True):
            if name not in SHARED_NAMES and not difficult and min(box[2] - box[0], box[3] - box[1]) >= SMALLEST:
                boxes.setdefault(name, []).append((sample.path, box))
    chosen = [
        (name, own[i * len(own) // n])
        for name, own in sorted(boxes.items())
        for n in [min(len(own), settings.n_pool)]
        for i in range(n)
    ]
    people, model.looks_at_everyone = {}, True
    with progress_bar(settings.cast_split, len(chosen), settings.progress) as bar:
        for done, (name, (path, box)) in enumerate(chosen, 1):
            with contextlib.suppress(UserError):
                people.setdefault(name, []).append(look_at(model, picture_of(load_image(path), box), path))
            bar.update(done)
    return {name: own for name, own in people.items() if own}


def judge(pool, judged, n, seed, of_people, shared):
    """One cast, drawn at random: dict of what it says of the people that are judged.

    of_people, shared: as of `own_cast.Characters`.

    Returns:
        `likeness` (people x characters), `names` (of the columns), `truth` (of the rows), and `left_out`: how near
        the characters' people are to the rest of the cast, once their character is left out of it.
    """
    import numpy as np

    from konohana.own_cast import Characters

    rng, cast = np.random.default_rng(seed), []
    for own in pool.values():
        cast.append([own[i] for i in rng.permutation(len(own))[:n]])
    said = [np.stack([person[key] for person in judged]) for key in ('embeddings', 'probabilities')]
    truth, left_out = np.array([person['name'] for person in judged]), []
    for i, name in enumerate(pool):
        rest, own = cast[:i] + cast[i + 1 :], truth == name
        if rest and own.any():
            likeness = Characters(rest, of_people, shared).likeness(*(values[own] for values in said))
            left_out.append(likeness.max(axis=1))
    return {
        'likeness': Characters(cast, of_people, shared).likeness(*said),
        'names': np.array(list(pool)),
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
    print(f'| names learned | {(said == truth)[known].mean():.1%} | {false} | – | – | – |')


def row(title, draws, threshold):
    """One row of the table: the mean of all casts, and how far they are apart."""
    import numpy as np

    at = np.array([rates(draw, threshold) for draw in draws])
    nearest = np.mean([rates(draw, -2.0)[0] for draw in draws])
    cells = [f'{mean:.1%} ± {spread:.1%}' for mean, spread in zip(at.mean(axis=0), at.std(axis=0), strict=True)]
    cells = [cell if 'nan' not in cell else '–' for cell in cells]
    false = [np.mean([strangers_at(draw, share) for draw in draws]) for share in (0.9, 0.85)]
    cells.append(f'{nearest:.1%} | ' + ', '.join('–' if value != value else f'{value:.0%}' for value in false))
    return f'| {title} | {" | ".join(cells)} |'


def strangers_at(draw, share):
    """The share of strangers that get a name at the threshold at which so many characters get their own.

    Without strangers, of characters left out of the cast. NaN where no threshold does.
    """
    import numpy as np

    likeness, names, truth = draw['likeness'], draw['names'], draw['truth']
    known = np.isin(truth, names)
    right = np.where(names[likeness.argmax(axis=1)] == truth, likeness.max(axis=1), -np.inf)[known]
    threshold = np.sort(right)[::-1][int(np.ceil(share * len(right))) - 1]
    strangers = draw['left_out'] if known.all() else likeness[~known].max(axis=1)
    return (strangers >= threshold).mean() if np.isfinite(threshold) else float('nan')


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
