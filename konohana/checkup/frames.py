"""Reading a dataset for a check, with what reading itself finds."""

from konohana.checkup.findings import Finding
from konohana.data.reading import read_frames
from konohana.data.shapes import USUAL


def read_for_check(root, splits, ignore_class, progress=True):
    """All frames that can be used.

    Returns:
        (list of `Sample`, the split of each, findings about what cannot be used and what was cut).

    Raises:
        UserError: see `reading.read_frames`.
    """
    parts, problems = read_frames(root, splits, ignore_class, progress)
    samples = [frame for part in parts for frame in part]
    # CVAT calls them Train and Validation.
    names = [split.lower() if split.lower() in USUAL else split for split in splits]
    split_of = [name for name, part in zip(names, parts, strict=True) for _ in part]
    findings = [Finding('unreadable', line) for line in problems]
    findings += [_off_picture(i, sample, *cut) for i, sample in enumerate(samples) for cut in sample.cut]
    return samples, split_of, findings


def _off_picture(i, sample, number, *corners):
    n = len(sample.boxes)
    name, box = (sample.names[number], sample.boxes[number]) if number < n else ('', sample.ignored[number - n])
    shown = ', '.join(f'{value:g}' for value in corners)
    text = f'{name or "an ignored region"} at {shown} (x1, y1, x2, y2) reaches beyond the picture of '
    text += f'{sample.width} x {sample.height}'
    return Finding('off_picture', text, i, [(box, True)], names=(name,) if name else ())
