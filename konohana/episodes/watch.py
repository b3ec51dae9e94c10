"""Watching an episode: every frame is decoded and, unless it repeats the one before, shown to the detector."""

import bisect
import time
from concurrent.futures import ThreadPoolExecutor

import av
import numpy as np

from konohana.episodes.index import build_index
from konohana.episodes.portraits import Portraits
from konohana.episodes.shots import Repeats, ShotFinder, compared_size
from konohana.interrupts import patient
from konohana.progress import progress_bar
from konohana.video.copying import chapters_within
from konohana.video.detecting import detect, looked_at_size, model_size
from konohana.video.source import QUICK, Reducer, Source
from konohana.video.stages import Stages

MOST_READ = 48  # frames in a batch, whether they are looked at or not
LOWEST = 0.15  # score below which a detection helps no track


def watch(
    model,
    video_in,
    start=0.0,
    seconds=0.0,
    batch_size=4,
    detect_every='auto',
    shared=(),
    progress=True,
    hwaccel='',
    known=(),
    keep=None,
):
    """Detect people in an episode, frame by frame, and link them.

    Args:
        model: a detector, see `konohana.load`.
        video_in: file or URL. start, seconds: part of it, in seconds; seconds=0 is all that follows.
        batch_size: frames that the detector sees at once.
        detect_every: 'auto': frames that repeat the one before take its detections, as drawings stand for two or three
            frames; or a whole number n: every n-th frame is looked at, whatever it shows.
        shared: class names that several people may have at once, such as "other".
        progress: show a progress bar. hwaccel: see `video.source.Source`.
        known: detections of the first frames, from a run that was ended; they are not detected again.
        keep: function of an `Index` that is called with what is done where something ends the run before its end.

    Returns:
        (`Index`, dict of `frames`, `detected` (frames that were looked at), `seconds` (that it took) and `stages`
        (line: the rate of decoding and detecting)).

    Raises:
        UserError: the video cannot be used.
    """
    began = time.monotonic()
    with patient(), Source(video_in, start, seconds, hwaccel) as source:
        watching = _Watch(model, source, batch_size, detect_every, known)
        try:
            watching.run(progress)
            index = watching.index(shared)
        except BaseException:
            if keep and len(watching.times) > len(known):
                keep(watching.index(shared))
            raise
    done = {'frames': len(watching.times), 'detected': watching.detected, 'seconds': time.monotonic() - began}
    return index, {**done, 'stages': watching.stages.text(done['frames'])}


class _Watch:
    """One run of `watch`, once the video is open."""

    def __init__(self, model, source, batch_size, detect_every, known=()):
        self.known, self.model, self.source, self.batch_size, self.every = (
            known,
            model,
            source,
            batch_size,
            detect_every,
        )
        picture = source.picture
        self.hw = (picture.height, picture.width)
        self.unit = source.prepare(picture, exact=False)
        self.reduce = Reducer(model_size(picture.width, picture.height, picture.sar, model))
        larger = looked_at_size(picture.width, picture.height, picture.sar, model)
        # What it cuts out is made smaller: chroma need not be exact.
        self.enlarge = Reducer(larger, QUICK) if larger else None
        self.compared = Reducer(compared_size(picture.width, picture.height, picture.sar))
        self.shots, self.repeats = ShotFinder(float(source.rate)), Repeats()
        self.n_classes, self.stages = len(model.class_names), Stages()
        self.times, self.found, self.n_read, self.detected = [], [], 0, 0
        self.portraits, self.n_found = Portraits(), 0
        self.frames = (item for item in source.items() if isinstance(item, av.VideoFrame))

    def run(self, progress):
        total = max(1, round(self.source.expected * self.source.rate))
        with ThreadPoolExecutor(1) as reader, progress_bar(self.source.name, total, progress, 'frames') as bar:
            upcoming, seen = reader.submit(self._read), []
            while batch := upcoming.result():
                # A cut is known a few frames later: by now those between the frames of the batch before are.
                cuts = self._last_cuts()
                upcoming = reader.submit(self._read)
                self._take_portraits(seen, cuts)
                seen = self._look(batch)
                bar.update(min(len(self.times), total))
            self._take_portraits(seen, self._last_cuts())
            bar.max_value = max(1, len(self.times))

    def index(self, shared):
        """The `Index` of the frames seen so far."""
        source, chapters = self.source, []
        for chapter in chapters_within(source.container.chapters(), source.origin, source.length):
            title = chapter.get('metadata', {}).get('title', '')
            chapters.append((float(chapter['start'] * chapter['time_base']), title.encode(errors='replace').decode()))
        starts = [start for start in self.shots.starts if start < len(self.times)]
        # Where recordings are joined, times may go back by up to `video.source.JUMP`.
        times = np.maximum.accumulate(np.array(self.times, float))
        index = build_index(
            *(source.name, self.hw, times, self.model.class_names, shared, starts, chapters),
            self.found[: len(self.times)],  # Ctrl-C may have come between the two
        )
        index.joined = source.joined
        index.portraits = self.portraits.taken
        return index

    def _read(self):
        """The next frames, until `batch_size` of them are to be looked at, see `_next_batch`."""
        with self.stages.at('decode'):
            return self._next_batch()

    def _next_batch(self):
        """List of (seconds, picture or None for a repeat, the same at the second look's size or None)."""
        batch, wanted = [], 0
        for frame in self.frames:
            small = self.compared(frame)
            self.shots.add(small)
            look = not self.repeats(small) if self.every == 'auto' else self.n_read % self.every == 0
            look = look and self.n_read >= len(self.known)
            picture = self.reduce(frame) if look else None
            large = self.enlarge(frame) if look and self.enlarge else None
            batch.append((float(frame.pts * self.unit), picture, large))
            self.n_read += 1
            wanted += look
            if wanted == self.batch_size or len(batch) >= MOST_READ:
                break
        return batch

    def _look(self, batch):
        """Detect people in the pictures of a batch; frames that repeat take what was found before them.

        Returns:
            list of (frame number, number of its first detection, detections, picture) of those that were looked at.
        """
        pictures = [picture for _, picture, _ in batch if picture is not None]
        large = [picture for _, _, picture in batch if picture is not None]
        with self.stages.at('detect'):
            found = iter(detect(self.model, pictures, self.hw, LOWEST, large) if pictures else [])
        seen = []
        for seconds, picture, larger in batch:
            if len(self.times) < len(self.known):
                self.found.append(self.known[len(self.times)])
            elif picture is None:
                self.found.append(self.found[-1])
            else:
                self.found.append(with_probabilities(next(found), self.n_classes))
                seen.append((len(self.times), self.n_found, self.found[-1], picture if larger is None else larger))
            self.n_found += len(self.found[-1]['scores'])
            self.times.append(seconds)
        self.detected += len(pictures)
        return seen

    def _last_cuts(self):
        """(number of cuts before them, frame numbers of the last ones, ascending): no batch reaches back farther."""
        last = self.shots.cuts[-2 * MOST_READ :]
        return len(self.shots.cuts) - len(last), [cut.frame_num for cut in last]

    def _take_portraits(self, seen, cuts):
        """seen: what `_look` returns. cuts: what `_last_cuts` returned once the next batch was read."""
        before, frames = cuts
        for number, *rest in seen:
            self.portraits.look(before + bisect.bisect(frames, number), *rest, self.hw)


def with_probabilities(found, n_classes):
    """Detections with `probabilities` (n x n_classes), made of labels and scores where the detector gives none."""
    if 'probabilities' not in found:
        scores, labels = found['scores'], found['labels'].astype(int) - 1
        rest = (1 - scores) / max(n_classes - 1, 1)
        probabilities = np.repeat(rest[:, None], n_classes, axis=1)
        probabilities[np.arange(len(labels)), labels] = scores if n_classes > 1 else 1.0
        found = {**found, 'probabilities': probabilities}
    return found
