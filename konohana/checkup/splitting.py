"""A split that keeps whole episodes, or scenes, together: by file names, and by pictures that look alike."""

import re
from collections import Counter, defaultdict
from pathlib import Path

import numpy as np

from konohana import files
from konohana.checkup.looks import NEAR

# What file names call an episode; the first that matches counts.
EPISODE = tuple(
    re.compile(pattern, re.IGNORECASE)
    for pattern in (
        r'(?<![a-z\d])s\d{1,2}[ ._-]?e(\d{1,3})(?!\d)',
        r'(?<![a-z\d])(?:ep|e|episode)[ ._-]?(\d{1,3})(?!\d)',
        r'第\s*(\d{1,3})\s*[话話集回]',
        r' - (\d{1,3})(?=[ ._\[(v]|$)',
    )
)
LAST_NUMBER = re.compile(r'[ ._-]*\d+(?:[hms:.]\d+)*[a-z]?$', re.IGNORECASE)

FEWEST, LARGEST = 4, 0.5  # groups by name are taken where there are so many, the largest no more than this part
N_BLOCKS = 20  # stretches of pictures in the order of their names, where names say nothing
WANTED = 0.12  # part of the pictures in val
ENOUGH = 10  # objects of a name that val should have
TRIES = 4000


def groups_of(samples):
    """(what groups the pictures: 'episode', 'name' or 'stretch'; the group of each as text)."""
    numbers = [_episode(sample.path) for sample in samples]
    stems = [str(sample.path.parent / LAST_NUMBER.sub('', sample.path.stem)) for sample in samples]
    mixed = [f'episode {n}' if n else Path(stem).name for n, stem in zip(numbers, stems, strict=True)]
    if sum(n is not None for n in numbers) >= 0.2 * len(samples) and _useful(mixed):
        return 'episode', mixed
    names = [Path(stem).name for stem in stems]
    if _useful(names):
        return 'name', names
    order = sorted(range(len(samples)), key=lambda i: files.in_order(samples[i].path.name))
    group = [''] * len(samples)
    for number, part in enumerate(np.array_split(np.array(order, int), min(N_BLOCKS, max(1, len(samples)))), start=1):
        for i in part.tolist():
            group[i] = f'stretch {number:02} ({samples[part[0]].path.stem} to {samples[part[-1]].path.stem})'
    return 'stretch', group


def _episode(path):
    for pattern in EPISODE:
        found = pattern.search(path.stem)
        if found:
            return int(found[1])
    return None


def _useful(groups):
    counts = Counter(groups)
    return len(counts) >= FEWEST and max(counts.values()) <= LARGEST * len(groups)


def propose(samples, pairs):
    """Which pictures should be in val.

    Of many random choices of whole groups the best is taken: near `WANTED` of the pictures, with as many names as
    possible in val, and each of them in train too. Pictures of val that look like one of train (openings, recaps) then
    go to train.

    Args:
        pairs: of `looks.alike`, from NEAR on.

    Returns:
        (list of 'train' or 'val' for each sample, lines that say how).
    """
    kind, group = groups_of(samples)
    groups = sorted(set(group))
    number = {name: i for i, name in enumerate(groups)}
    mine = np.array([number[name] for name in group], int)
    names = sorted({name for sample in samples for name in sample.names})
    objects = np.zeros((len(groups), len(names)))
    label = {name: i for i, name in enumerate(names)}
    for i, sample in enumerate(samples):
        for name in sample.names:
            objects[mine[i], label[name]] += 1
    chosen = _best_choice(np.bincount(mine, minlength=len(groups)), objects)
    split = ['val' if chosen[k] else 'train' for k in mine]
    moved = _return_alike(split, pairs)
    in_val = {name for sample, where in zip(samples, split, strict=True) if where == 'val' for name in sample.names}
    n_val = split.count('val')
    by = {'episode': 'episodes', 'name': 'groups of one name', 'stretch': 'stretches of neighbouring names'}[kind]
    lines = [
        f'Split by {by}: val is {", ".join(groups[k] for k in np.flatnonzero(chosen)) or "empty"}',
        f'{n_val} of {len(samples)} pictures ({n_val / max(len(samples), 1):.0%}), {len(in_val)} of {len(names)} names',
    ]
    if moved:
        lines.append(f'In train because of a picture elsewhere that looks like it (openings, recaps): {moved}')
    missing = [name for name in names if name not in in_val]
    if missing:
        lines.append(f'Not in val: {", ".join(missing[:20])}{" ..." if len(missing) > 20 else ""}')
    return split, lines


def _best_choice(sizes, objects):
    """Which groups are val: bools. sizes: pictures of each group. objects: groups x names."""
    rng = np.random.default_rng(0)
    n, total, all_objects = len(sizes), max(int(sizes.sum()), 1), objects.sum(axis=0)
    wanted = np.minimum(ENOUGH, np.maximum(all_objects * WANTED, 1))
    best, best_score = np.zeros(n, bool), -np.inf
    for chosen in rng.random((TRIES, n)) < rng.uniform(0.2, 2, (TRIES, 1)) * max(WANTED, 1 / max(n, 1)):
        if not chosen.any() or chosen.all():
            continue
        part, there = sizes[chosen].sum() / total, objects[chosen].sum(axis=0)
        judged = np.minimum(there / wanted, 1).sum()
        lost = ((all_objects > 0) & (there > 0.6 * all_objects)).sum()
        score = judged - 2 * lost - abs(part - WANTED) / WANTED * 0.15 * max(len(all_objects), 1)
        if score > best_score:
            best, best_score = chosen, score
    return best


def _return_alike(split, pairs):
    """Move pictures of val that look like one of train to train, in place; returns how many."""
    partners = defaultdict(list)
    for i, j, likeness in pairs:
        if likeness >= NEAR:
            partners[i].append(j)
            partners[j].append(i)
    waiting = [i for i in partners if split[i] == 'train']
    moved = 0
    while waiting:
        for j in partners[waiting.pop()]:
            if split[j] == 'val':
                split[j] = 'train'
                moved += 1
                waiting.append(j)
    return moved
