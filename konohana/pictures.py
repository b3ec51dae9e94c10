"""Annotated pictures: their names, what is drawn, and the run over many pictures."""

import os
from collections import Counter
from pathlib import Path

import numpy as np

from konohana import drawing, files
from konohana.data.images import fit_size, load_image, resize, save_image
from konohana.errors import UserError, noting
from konohana.evaluation.predict import encoded
from konohana.progress import progress_bar

N_NAMED = 5  # files that are named where many have the same problem
RESULTS = ('boxes', 'labels', 'scores', 'masks')  # what is kept of a picture's detections


def output_paths(pictures, folder, ending='.jpg'):
    """Where the annotated pictures go: one path in `folder` for each picture, no two of them the same file.

    A picture keeps its name; pictures that differ in ending or folder alone keep that in it. Names that a file system
    may take for one (a.png and A.png, the two Unicode forms of é) count as the same.

    Args:
        pictures: list of paths.

    Returns:
        list of paths, in the order of `pictures`.
    """
    top = Path(os.path.commonpath([path.parent for path in pictures])) if pictures else None
    choices = [(path.stem, path.name, '_'.join(path.relative_to(top).parts)) for path in pictures]
    counts = [Counter(map(files.same_name, names)) for names in zip(*choices, strict=True)]
    taken, paths = set(), []
    for names in choices:
        free = (name for name, count in zip(names, counts, strict=True) if count[files.same_name(name)] == 1)
        name = first = next(free, names[-1])
        number = 1
        while files.same_name(name) in taken:
            number += 1
            name = f'{first}_{number}'
        taken.add(files.same_name(name))
        paths.append(Path(folder) / f'{name}{ending}')
    return paths


def claim_outputs(paths, inputs, overwrite=False, variable='test_out'):
    """Make sure that all `paths` may be written: call it before the work starts.

    Args:
        paths: files to be written. overwrite, variable: see `files.claim`.
        inputs: files that are read, and folders of which all pictures are read.

    Raises:
        UserError: see `files.claim`; or a path is in a folder of `inputs`, where the next run would read it.
    """
    inputs = [(_identity(given), given) for given in map(Path, inputs)]
    folders = {identity for identity, given in inputs if given.is_dir()}
    read = {identity: given for identity, given in inputs if identity}
    for folder in {path.parent for path in paths}:
        if _identity(folder) in folders:
            raise UserError(
                f'{folder}: the pictures to annotate are there, and annotated ones would be taken for more of them. '
                f'Choose another {variable}.'
            )
        # The list of outputs is written there too, so this says whether anything can be.
        files.claim(folder / files.LIST_NAME, overwrite=True, variable=variable)
    for path in paths:
        identity = _identity(path)
        # An impossible name, or a folder of that name, is a problem of one picture, which `annotate` tells.
        if identity and not path.is_dir():
            files.claim(path, [read[identity]] if identity in read else [], overwrite, variable)


def _identity(path):
    """What makes two paths the same file, however they are written; None for one that is not there."""
    try:
        status = path.stat()
    except (OSError, ValueError):
        return None
    return status.st_dev, status.st_ino


def annotate(model, samples, paths, draw, batch_size=8, with_maps=False, progress=True):
    """Detect characters in pictures and write the annotated ones. A picture that fails does not stop the others.

    Args:
        model: a detector in evaluation mode.
        samples: list of `Sample`, of which `path` is read; `height` and `width` are set to those of the picture.
        paths: where each annotated picture goes.
        draw: function of (picture, its detections) -> annotated picture, both uint8 H x W x 3 RGB.
        batch_size: pictures that the detector sees at once.
        with_maps: whether the detections given to `draw` have the detector's maps (`model.maps`).
        progress: whether to show a progress bar.

    Returns:
        (list of the samples that could be read; list of their detections, arrays, with `rles` instead of `masks`; list
        of (path, error), one for each picture that could not be read or written).
    """
    done, detections, problems = [], [], []
    pairs = list(zip(samples, paths, strict=True))
    with progress_bar('Annotating', len(pairs), progress) as bar:
        for start in range(0, len(pairs), batch_size):
            images = {}
            for sample, _ in pairs[start : start + batch_size]:
                with noting(problems, sample.path):
                    images[sample.path] = load_image(sample.path)
            read = [(sample, path) for sample, path in pairs[start : start + batch_size] if sample.path in images]
            found = model.detect([images[sample.path] for sample, _ in read], with_maps)
            for (sample, path), one in zip(read, found, strict=True):
                image = images[sample.path]
                sample.height, sample.width = image.shape[:2]
                picture = draw(image, one)
                with noting(problems, path):
                    save_image(path, picture, remember=True)
                done.append(sample)
                detections.append(encoded({key: one[key] for key in RESULTS if key in one}))
            bar.update(min(start + batch_size, len(pairs)))
    return done, detections, problems


def problem_lines(problems):
    """List of (path, error) -> list of lines, one for each thing that is wrong, however many files it is wrong with."""
    by_reason = {}
    for path, error in problems:
        text = str(error)
        reason = text.removeprefix(str(path)) if text.startswith(str(path)) else f': {text}'
        by_reason.setdefault(reason, []).append(path)
    lines = []
    for reason, paths in by_reason.items():
        others = ', '.join(path.name for path in paths[1:N_NAMED]) + (' ...' if len(paths) > N_NAMED else '')
        same = f' (the same goes for {len(paths) - 1} more: {others})' if len(paths) > 1 else ''
        lines.append(f'{paths[0]}{reason}{same}')
    return lines


def detection_sheet(image, found, class_names, img_hw, maps=(), **style):
    """A picture, what was found in it and the detector's maps side by side, at the size at which the network sees it.

    Args:
        image: uint8 H x W x 3 RGB. found: its detections, in its pixels.
        img_hw: (height, width) that the detector resizes pictures to inside.
        maps: names of the maps to show, of those that `found` has. style: see `drawing.draw_detections`.

    Returns:
        uint8 RGB picture.
    """
    hw = fit_size(*image.shape[:2], img_hw)
    seen = resize(image, hw)
    ratio = np.float32([hw[1] / image.shape[1], hw[0] / image.shape[0]] * 2)
    # Masks are drawn at any size, boxes as they are.
    shown = {**found, 'boxes': np.asarray(found['boxes']) * ratio}
    panels = {'frame': seen, 'found': drawing.draw_detections(seen, shown, class_names, **style)}
    panels.update({name: drawing.heat_map(found[name], hw, background=seen) for name in maps if name in found})
    return drawing.sheet(list(panels.values()), list(panels))
