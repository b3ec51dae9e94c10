"""Progress of long work: rate and remaining time, one line."""

import contextlib
import sys

import progressbar

from konohana import worker


@contextlib.contextmanager
def progress_bar(title, total, shown=True, unit='pictures', lines=False, **variables):
    """A progress bar as a context manager.

    Args:
        title: text at the left.
        total: number of steps; `bar.update(done, **values)` moves it.
        shown: False makes a bar that shows nothing.
        unit: what is counted, for the rate; '' shows neither rate nor count.
        lines: whether the caller prints lines meanwhile, which come above the bar.
        variables: further values shown, name -> format such as '{formatted_value}'; pass new ones to `bar.update`.

    On a terminal the line is redrawn; in a log file each bar ends as one line. A worker's bar is lines for the process
    that started it (see `worker`).
    """
    count = [progressbar.SimpleProgress(format='%(value_s)s/%(max_value_s)s'), ' '] if unit else []
    rate = [progressbar.AdaptiveTransferSpeed(prefixes=[''], unit=unit, samples=20), ' '] if unit else []
    widgets = [
        title,
        ' ',
        *count,
        progressbar.Bar(marker='=', left='[', right=']'),
        ' ',
        *rate,
        progressbar.ETA(
            format_not_started='ETA --:--:--',
            format='ETA %(eta)8s',
            format_zero='ETA 0:00:00',
            format_finished='in %(elapsed)s',
        ),
    ]
    for name, text in variables.items():
        widgets += [' ', progressbar.Variable(name, format=text)]
    # Without PyTorch there is one process; importing it takes seconds.
    distributed = sys.modules.get('konohana.distributed')
    if not shown or (distributed and distributed.rank()):
        yield progressbar.NullBar()
        return
    if worker.is_worker():
        yield worker.Lines(total)
        return
    terminal = sys.stderr.isatty()
    bar = progressbar.ProgressBar(
        max_value=total,
        widgets=widgets,
        fd=sys.stderr,
        redirect_stdout=lines and terminal,
        # Without a terminal a bar of thousands of steps would fill a log with copies of itself.
        poll_interval=0.1 if terminal else 60,
        min_poll_interval=0.1 if terminal else 60,
        variables={name: '' for name in variables},
        term_width=None if terminal else 120,
        is_terminal=terminal,
        line_breaks=not terminal,
    )
    bar.start()
    finished = False
    try:
        yield bar
        finished = True
    finally:
        bar.finish(dirty=not finished)
