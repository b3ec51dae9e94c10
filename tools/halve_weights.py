"""Halve a weights file: python tools/halve_weights.py weights_in=net.pt weights_out=weights/net.pt

Stores the kernels in half precision (11 bits), which changes metrics on val by a few thousandths at most. The
statistics of batch norms stay as they are. The result loads and trains on like any other weights file.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from konohana import files
from konohana.settings import read, run

ROOT = Path(__file__).resolve().parent.parent

weights_in = 'net.pt'  # weights file to read; relative paths start at the project's folder
weights_out = 'net_half.pt'  # weights file to write
overwrite = False  # replace an existing file that this program did not write


def main(arguments=None):
    settings = read(globals(), arguments, folder=ROOT)
    from konohana import checkpoint  # imported here, so that --help answers at once

    source, target = settings.path(settings.weights_in), settings.path(settings.weights_out)
    files.claim(target, [source], settings.overwrite, 'weights_out')
    content = checkpoint.load(source)
    content['model'] = {
        key: value.half() if value.is_floating_point() and value.ndim > 1 else value
        for key, value in content['model'].items()
    }
    checkpoint.save(content, target, remember=True)
    before, after = (file.stat().st_size / 1e6 for file in (source, target))
    print(f'{target}: {after:.1f} MB, before {before:.1f} MB')


if __name__ == '__main__':
    run(main)
