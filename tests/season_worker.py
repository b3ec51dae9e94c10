"""Stands for the script in the tests of several workers: python season_worker.py WHAT TARGET. It starts at once."""

import os
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from konohana.errors import UserError
from konohana.settings import run
from konohana.worker import Lines

what, target = sys.argv[1], Path(sys.argv[2])


def begin():
    print(f'{os.environ["OMP_NUM_THREADS"]} threads')
    bar = Lines(10)
    bar.said = 0
    bar.update(5)


def be_slow():
    """Whoever hears of the beginning may interrupt it from then on."""
    try:
        begin()
        time.sleep(60)
    except KeyboardInterrupt:
        time.sleep(0.3)  # a second interruption would end the saving
        target.with_name(f'{target.name}_partial').write_text('kept')
        raise


def main():
    if what == 'slow':
        be_slow()
    begin()
    if what == 'killed':
        os.kill(os.getpid(), 9)
    if what == 'crashed':
        raise RuntimeError('no such thing')
    if what == 'wrong':
        raise UserError(f'{target}: not a video')
    if what == 'while':
        with target.with_suffix('.worker').open('a') as file:
            print(os.getppid(), file=file, flush=True)
        time.sleep(1.5)
    target.write_text(f'{os.getpid()}')


run(main)
