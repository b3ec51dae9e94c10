"""What the second look costs: python benchmarks/second_look.py konohana_dataset_path=my_show

Times a frame with three people by a weights file and by the same without its second look, in each installed runtime,
post-processing included. Both take turns in one run: compare ratios, not milliseconds.
"""

import random
import statistics
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from konohana.cast import IGNORE_CLASS
from konohana.errors import UserError
from konohana.settings import read, require, run

weights = ''  # weights file with a second look; '' takes weights/net.pt
konohana_dataset_path = 'toy_show'  # dataset whose frames are timed; the toy show is drawn when it is not there
split = 'val'  # its split
ignore_class = IGNORE_CLASS  # boxes with this name mark regions that are not counted
n_people = 3  # people that are found in a frame
n_frames = 16  # frames to take turns with
n_rounds = 4  # rounds of all frames that are timed, after one to warm up
threads = 0  # threads to use, 0 for torch's choice
progress = True  # show progress bars

ROOT = Path(__file__).resolve().parent.parent
FOUND = 0.5  # score from which somebody is found
RUNTIMES = ('torch', 'onnxruntime', 'openvino')


def main(arguments=None):
    settings = read(globals(), arguments, folder=ROOT)
    require(settings, n_people=(0, 100), n_frames=(1, None), n_rounds=(1, None), threads=(0, None))
    import torch

    from konohana import checkpoint, default_weights, load

    if settings.threads:
        torch.set_num_threads(settings.threads)
    path = settings.path(settings.weights) if settings.weights else default_weights()
    content = checkpoint.load(path)
    if not content.get('options', {}).get('second_look'):
        raise UserError(f'{path}: these weights have no second look.')
    # Not the shipped file to the last byte, whose graph in 8-bit integers would be compared with one in float32.
    content['benchmark'] = True
    with tempfile.TemporaryDirectory() as folder:
        looking, plain = Path(folder) / 'looking.pt', Path(folder) / 'plain.pt'
        checkpoint.save(content, looking)
        checkpoint.save(without_look(content), plain)
        pairs = {}
        for name in RUNTIMES:
            try:
                pairs[name] = load(looking, 'cpu', backend=name), load(plain, 'cpu', backend=name)
            except UserError as error:
                print(f'{error} It is left out.')
        frames = frames_with(pairs['torch'][0], settings)
        print(
            f'{len(frames)} frames of {frames[0].shape[0]} x {frames[0].shape[1]} with {settings.n_people} people, '
            f'{torch.get_num_threads()} threads, median of {settings.n_rounds * len(frames)} pairs of runs'
        )
        print('| runtime | ms with | ms without | with / without |\n|---|---|---|---|')
        for name, (a, b) in times(pairs, frames, settings.n_rounds).items():
            ratio = statistics.median(x / y for x, y in zip(a, b, strict=True))
            print(f'| {name} | {statistics.median(a) * 1e3:.1f} | {statistics.median(b) * 1e3:.1f} | {ratio:.2f} |')


def without_look(content):
    """The content of a weights file without its second look."""
    kept = {name: value for name, value in content['model'].items() if not name.startswith('second_look.')}
    return {**content, 'model': kept, 'options': {**content['options'], 'second_look': False}}


def frames_with(model, settings):
    """Frames of the dataset in which so many people are found."""
    from konohana.data.images import load_image
    from konohana.data.reading import frames_of_split
    from konohana.toy.writer import draw_default

    root = settings.path(settings.konohana_dataset_path)
    draw_default(root, ROOT, [settings.split], settings.progress)
    samples = frames_of_split(root, settings.split, settings.ignore_class, settings.progress)
    random.Random(0).shuffle(samples)  # those that follow one another are alike
    frames, looked = [], 0
    for sample in samples:
        image = load_image(sample.path)
        (found,) = model.detect([image])
        if int((found['scores'] >= FOUND).sum()) == settings.n_people:
            frames.append(image)
            looked += int(found['embeddings'].any(axis=1).sum())
        if len(frames) == settings.n_frames:
            break
    if not frames:
        raise UserError(f'{root}: no frame in which {settings.n_people} people are found. Choose another n_people.')
    print(
        f'{looked} of {settings.n_people * len(frames)} people are looked at again: of the others the detector is sure'
    )
    return frames


def times(pairs, frames, n_rounds):
    """{runtime: (seconds of each run with the second look, without)}.

    Each runtime is by itself, as in use: another's threads and memory slow down whoever comes after it. Its two models
    take turns.
    """
    import time

    taken = {name: ([], []) for name in pairs}
    for name, models in pairs.items():
        for number in range(n_rounds + 1):
            for frame in frames:
                for model, seconds in zip(models, taken[name], strict=True):
                    began = time.perf_counter()
                    model.detect([frame])
                    if number:
                        seconds.append(time.perf_counter() - began)
    return taken


if __name__ == '__main__':
    run(main)
