"""Draw the README's pictures: python tools/draw_readme_pictures.py overwrite=True

A sheet of one frame and a short animation, both of the toy show, annotated by the shipped weights. The shots are
chosen; README.md says how good the weights are on frames that are not.
"""

import io
import sys
from pathlib import Path

import cv2
import numpy as np
from PIL import Image

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import konohana
from konohana import files
from konohana.cast import ROMANISED
from konohana.settings import read, require, run
from konohana.toy.scenes import draw_shot, shoot

# PyTorch and what needs it are imported where they are used, so that --help answers at once.

sheet_out = 'docs/sheet.jpg'  # the sheet: frame, annotated frame and the detector's maps
episode_out = 'docs/episode.webp'  # the animation
overwrite = False  # replace existing files that this program did not write
sheet_shot = 35  # seed of the shot that the sheet shows
episode_shots = (10, 21, 33)  # seeds of the animation's shots
seconds = 2.0  # length of a shot in the animation
fps = 10.0  # frames a second of the animation
width = 480  # width of the animation in pixels
threshold = 0.5  # detections with a lower score are not drawn

ROOT = Path(__file__).resolve().parent.parent
FRAME_HW = (360, 640)  # the size at which the shots are drawn and the weights look at them


def main(arguments=None):
    settings = read(globals(), arguments, folder=ROOT)
    require(settings, seconds=(0.1, 60), fps=(1, 60), width=(64, 1920), threshold=(0, 1))
    outputs = {'sheet_out': draw_sheet, 'episode_out': draw_episode}
    for variable in outputs:
        files.claim(settings.path(getattr(settings, variable)), [], settings.overwrite, variable)
    model = konohana.load(device='cpu')
    for variable, draw_picture in outputs.items():
        target = settings.path(getattr(settings, variable))
        files.write_bytes(target, draw_picture(model, settings), remember=True)
        print(f'Drawn: {target} ({target.stat().st_size / 1e6:.2f} MB)')


def draw_sheet(model, settings):
    """The sheet, as the bytes of a JPEG."""
    from konohana.pictures import detection_sheet

    frame = shoot(np.random.default_rng(settings.sheet_shot), FRAME_HW)[1]['image']
    (found,) = model.detect([frame], with_maps=True)
    sheet = Image.fromarray(detection_sheet(frame, found, img_hw=FRAME_HW, maps=model.maps, **style(model, settings)))
    return encoded(sheet, 'JPEG', quality=88)


def draw_episode(model, settings):
    """The animation, as the bytes of an animated WebP."""
    from konohana.drawing import draw_detections

    size = (settings.width, round(settings.width * FRAME_HW[0] / FRAME_HW[1]))
    pictures = []
    for seed in settings.episode_shots:
        shot = shoot(np.random.default_rng(seed), FRAME_HW)[0]
        for number in range(round(settings.seconds * settings.fps)):
            frame = draw_shot(shot, number / settings.fps)['image']
            (found,) = model.detect([frame])
            small = cv2.resize(frame, size, interpolation=cv2.INTER_AREA)
            found['boxes'] = found['boxes'] * (size[0] / FRAME_HW[1])
            pictures.append(Image.fromarray(draw_detections(small, found, **style(model, settings))))
    first, *others = pictures
    duration = round(1000 / settings.fps)
    return encoded(first, 'WEBP', save_all=True, append_images=others, duration=duration, loop=0, quality=70, method=6)


def style(model, settings):
    """How people are drawn; names in Latin letters, which every font has."""
    return {'class_names': model.class_names, 'label_names': ROMANISED, 'threshold': settings.threshold}


def encoded(picture, kind, **options):
    """A Pillow picture as the bytes of a file."""
    file = io.BytesIO()
    picture.save(file, kind, **options)
    return file.getvalue()


if __name__ == '__main__':
    run(main)
