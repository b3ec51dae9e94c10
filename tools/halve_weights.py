"""Halve a weights file: python tools/halve_weights.py weights_in=net.pt weights_out=weights/net.pt

Kernels are stored in half precision (11 bits; figures on val do not change by more than a few thousandths); what batch
norms have counted stays as it is. It loads and trains on like any other weights file.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from konohana import checkpoint
from konohana.errors import UserError
from konohana.settings import override, resolve, run

weights_in = 'net.pt'  # weights file to read
weights_out = 'net_half.pt'  # weights file to write


def main():
    override(globals())
    root = Path(__file__).resolve().parent  # relative paths start at its parent, the repository's root
    source, target = resolve(root, weights_in), resolve(root, weights_out)
    content = checkpoint.load(source)
    if source == target:
        raise UserError(f'{target}: it would be written over. Give weights_out another name.')
    content['model'] = {
        key: value.half() if value.is_floating_point() and value.ndim > 1 else value
        for key, value in content['model'].items()
    }
    checkpoint.save(content, target)
    before, after = (file.stat().st_size / 1e6 for file in (source, target))
    print(f'{target}: {after:.1f} MB, before {before:.1f} MB')


if __name__ == '__main__':
    run(main)
