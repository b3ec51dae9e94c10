"""Frames worth labelling from episodes: python tools/extract_frames.py video_in='season/*.mkv' n_frames=300

Takes the best one or two frames of a shot, from all episodes and of all looks: none that is black, blurred or
cross-faded, no near-duplicates, and an opening or ending that repeats only once. The pictures' names carry episode and
time; a contact sheet beside their folder shows them. A larger n_frames later adds frames and keeps what is there.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from konohana.errors import UserError, count, printable
from konohana.settings import read, require, require_one_of, run

video_in = 'toy_show_2.mp4'  # an episode; several: a folder, season/*.mkv, a list; toy_show_2.mp4 is drawn if missing
frames_out = 'frames'  # folder to write; relative paths start at the project's folder
n_frames = 300  # frames to take, of all episodes together
ending = '.jpg'  # of the pictures: .jpg, or .png, which loses nothing
weights = ''  # weights of a detector: frames on which it is unsure are preferred; '' chooses by looks alone
device = ''  # cpu, cuda, ...; '' takes the fastest
backend = 'auto'  # what computes the network on a CPU: auto, openvino, onnxruntime or torch
hwaccel = ''  # let a device decode: cuda, videotoolbox, ...
overwrite = False  # replace a contact sheet that this program did not write
progress = True  # show progress bars

ROOT = Path(__file__).resolve().parent.parent
ENDINGS = ('.jpg', '.png')
SHEET = 200  # frames on a contact sheet
TILE, COLUMNS = (135, 240), 10  # height and width of a frame there, and frames in a row
BATCH = 4


def main(arguments=None):
    settings = read(globals(), arguments, folder=ROOT)
    require(settings, n_frames=(1, 10**6))
    require_one_of(settings, ending=ENDINGS)
    from konohana import files
    from konohana.episodes import pick
    from konohana.episodes.scan import scanned
    from konohana.inference import load
    from konohana.pictures import output_paths
    from konohana.toy.writer import draw_default_video
    from konohana.video.season import episodes

    sources, _ = episodes(settings.video_in, settings.path)
    draw_default_video(sources[0], ROOT)
    check(sources)
    folder = settings.path(settings.frames_out)
    sheets = [files.beside(folder, f'_sheet{i or ""}.jpg') for i in range(-(-settings.n_frames // SHEET))]
    for sheet in sheets:
        files.claim(sheet, sources, settings.overwrite, 'frames_out')
    # Wrong weights are told before an hour of looking.
    weights = settings.path(settings.weights) if settings.weights else None
    model = load(weights, settings.device, backend=settings.backend) if weights else None
    scans = [scanned(path, folder / '.scans', settings.progress, settings.hwaccel) for path in sources]
    marks, stretches = pick.repeated(scans)
    report(stretches, sources)
    moments = [m for i, scan in enumerate(scans) for m in pick.moments_of(i, scan, marks[i])]
    if model:
        look(settings, model, scans, moments)
    chosen = pick.choose(moments, settings.n_frames)
    if not chosen:
        raise UserError('No frame is worth labelling: all are black, of one colour, blurred or cross-faded.')
    stems = [path.name for path in output_paths(sources, '', '')]
    paths = write(settings, scans, chosen, [folder / f'{stems[m.episode]}_{stamp(m.time)}' for m in chosen])
    draw(sheets, paths)
    counts = ', '.join(f'{printable(stem)}: {sum(m.episode == i for m in chosen)}' for i, stem in enumerate(stems))
    shots = count(sum(len(set(scan.shots)) for scan in scans), 'shot')
    print(f'{len(chosen)} of {shots} and {count(len(moments), "candidate")} ({counts})')
    if len(chosen) < settings.n_frames:
        print(f'There are no more: the rest looks like these. More episodes give more than n_frames={len(chosen)}.')
    print(f'{folder}, contact sheet: {sheets[0]}')


def check(sources):
    """Raise UserError for a video that is a stream, or is not there."""
    from konohana.video.source import is_url

    for path in sources:
        if is_url(path):
            raise UserError(f'{path}: frames are taken from files. Download the video first.')
        if not path.is_file():
            raise UserError(f'{path}: no such file. Set video_in to an episode, a folder or season/*.mkv.')


def report(stretches, sources):
    """Print what is left out because an earlier episode has it."""
    from konohana.episodes.timeline import clock

    for episode, begin, end, earlier in stretches:
        names = printable(sources[episode].name), printable(sources[earlier].name)
        print(f'{names[0]}: {clock(begin)} to {clock(end)} is in {names[1]} too, and taken once.')


def look(settings, model, scans, moments):
    """Let a detector say how much each moment is worth."""
    from konohana.episodes.pick import worth_of
    from konohana.episodes.scan import grab
    from konohana.video.detecting import detect, model_size

    for episode, scan in enumerate(scans):
        own = [m for m in moments if m.episode == episode]
        hw = model_size(scan.hw[1], scan.hw[0], 1, model)
        frames = (picture for _, picture in grab(scan, [m.time for m in own], settings.progress, hw))
        for start in range(0, len(own), BATCH):
            part = own[start : start + BATCH]
            pictures = [next(frames) for _ in part]
            for moment, found in zip(part, detect(model, pictures, hw, 0.15), strict=True):
                moment.worth = worth_of(found, model.class_names)


def stamp(seconds):
    """Seconds as they stand in a picture's name: 00h12m03s250."""
    whole, rest = divmod(round(seconds * 1000), 1000)
    return f'{whole // 3600:02}h{whole // 60 % 60:02}m{whole % 60:02}s{rest:03}'


def write(settings, scans, chosen, stems):
    """Write the frames that are not there yet -> paths of all, sorted. What is there stays: it may be labelled.

    That goes for a frame with another ending too: two of one name would share their labels.
    """
    from konohana.data.images import save_image
    from konohana.episodes.scan import grab

    paths = []
    for stem in stems:
        ways = [stem.with_name(stem.name + ending) for ending in (settings.ending, *ENDINGS)]
        paths.append(next((path for path in ways if path.exists()), ways[0]))
    for episode, scan in enumerate(scans):
        wanted = {
            m.time: path for m, path in zip(chosen, paths, strict=True) if m.episode == episode and not path.exists()
        }
        for time, picture in grab(scan, sorted(wanted), settings.progress) if wanted else ():
            save_image(wanted[time], picture, remember=True)
    return sorted(paths)


def draw(sheets, paths):
    """Draw the contact sheets."""
    from konohana.data.images import load_image, save_image
    from konohana.drawing import boxed, contact_sheet

    for number, sheet in enumerate(sheets):
        part = paths[number * SHEET : (number + 1) * SHEET]
        if part:
            tiles = [boxed(load_image(path), TILE) for path in part]
            save_image(sheet, contact_sheet(tiles, [path.stem for path in part], TILE, COLUMNS), remember=True)


if __name__ == '__main__':
    run(main)
