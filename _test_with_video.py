"""Annotate a video with a detector. Edit the variables below, or set them: python _test_with_video.py video_in=show.mkv

The result has the picture's size and frame rate, the sound, subtitles, fonts and chapters of the source. Ctrl-C keeps
what is done as <name>_partial. With a webcam (video_in=0) it goes on until Ctrl-C, or until its window is closed.
"""

import time

import konohana
from konohana.errors import UserError
from konohana.settings import override, require, resolve, run
from konohana.video.annotate import CONTAINERS, annotate_video
from konohana.video.camera import annotate_camera, camera_number
from konohana.video.window import open_window

video_in = ''  # the video, or 0 for the first camera (1, 2, ...); '' draws a toy episode, toy_show.mp4
video_out = ''  # .mkv, .mp4 or .mov; '' is test_out/<name of video_in>_annotated
weights = ''  # weights file (.pt or .onnx); '' takes your net.pt, or else weights/net.pt
use_res2block = False  # if no weights file is named: net_det3.pt instead of net.pt
threshold = 0.5  # lowest score that is drawn, 0 to 1
batch_size = 4  # frames in a batch
device = ''  # 'cuda', 'mps' or 'cpu'; '' takes the fastest there is
label_names = {}  # other spellings to draw, like {'柚': 'Yuzu'}
start = 0.0  # seconds into the video at which to begin
seconds = 0.0  # length to annotate in seconds; 0 for all
crf = 18  # quality of x264, 0 (lossless) to 51 (worst)
font = ''  # font file of the labels; '' finds one
show = False  # show the annotated frames in a window
progress = True  # show a progress bar and what could not be kept


def main():
    require(
        override(globals()), batch_size=(1, None), threshold=(0, 1), crf=(0, 51), start=(0, None), seconds=(0, None)
    )
    path = resolve(__file__, weights) if weights else konohana.default_weights(resolve(__file__, '.'), use_res2block)
    model = konohana.load(path, device=device)
    style = {'label_names': label_names, 'font': resolve(__file__, font) if font else None, 'progress': progress}

    camera = camera_number(video_in)
    if camera is not None:
        if start:
            raise UserError(f'start={start:g}: a camera has no past; leave start at 0.')
        moment = time.strftime('%Y%m%d_%H%M%S')
        target = resolve(__file__, video_out or f'test_out/camera{camera}_{moment}.mkv')
        with open_window(show, f'camera {camera}') as window:
            done = annotate_camera(model, camera, target, threshold, crf=crf, seconds=seconds, window=window, **style)
        print(f'{done["seen"]} pictures seen in {done["seconds"]:.1f} s, recorded at {done["rate"]} fps: {target}')
        return

    source = resolve(__file__, video_in or 'toy_show.mp4')
    if not video_in and not source.is_file():
        from konohana.toy import writer

        print(f'Drawing a toy episode, {source.name}.')
        writer.write_video(source, seconds=10, fps=24, hw=(360, 640), seed=0)
    ending = source.suffix if source.suffix.lower() in CONTAINERS else '.mkv'
    target = resolve(__file__, video_out or f'test_out/{source.stem}_annotated{ending}')

    started = time.monotonic()
    with open_window(show, source.name) as window:
        done = annotate_video(
            *(model, source, target, threshold, batch_size),
            crf=crf, start=start, seconds=seconds, window=window, **style,
        )  # fmt: skip
    took = time.monotonic() - started
    print(
        f'{done["frames"]} frames ({done["seconds"]:.2f} s, {done["rate"]} fps) in {took:.1f} s, '
        f'{done["frames"] / took:.1f} a second: {done["video_out"]}'
    )


if __name__ == '__main__':
    run(main)
