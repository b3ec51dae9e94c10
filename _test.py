"""Find and name characters in pictures. Edit the variables below, or set them: python _test.py pictures_in=my_frames

Writes a sheet for each picture (frame, annotated frame, and the objectness and quality maps of a detector that has
them) and prints figures, of masks too, where there are labels. Without a trained net.pt it uses the shipped weights.
"""

import os
from collections import Counter
from pathlib import Path

import torch
from torchvision.transforms.v2 import functional as TF

import konohana
from konohana import drawing
from konohana.cast import IGNORE_CLASS, ROMANISED
from konohana.data.images import list_pictures, load_image, save_image
from konohana.data.reading import read_frames, report
from konohana.data.sample import Sample
from konohana.detectors.transform import fit_size
from konohana.errors import UserError
from konohana.evaluation.coco_metrics import write_results_json
from konohana.evaluation.predict import encoded, predict
from konohana.evaluation.summary import evaluate, finding, format_figures
from konohana.progress import progress_bar
from konohana.settings import override, require, resolve, run
from konohana.toy.writer import draw_default

konohana_dataset_path = 'toy_show'  # your dataset's folder; toy_show is drawn when it is not there
split = 'val'  # which of its splits
pictures_in = ''  # a folder of pictures, or one picture, instead of a dataset; no labels needed
weights = ''  # weights file; '' takes net.pt of your training, else weights/net.pt
use_res2block = False  # without a weights file named: net_det3.pt instead of net.pt
threshold = 0.5  # detections of a lower score are not drawn, 0 to 1
sheet = True  # panels at the network's size; False: the annotated picture alone at its own size
test_out = ''  # folder for the pictures; '' is test_out, or test_out_det3 with use_res2block
results_json = ''  # also write all detections (boxes, and masks where there are) to this COCO-style file
label_names = {}  # other spellings to draw, like {'柚': 'Yuzu'}
ignore_class = IGNORE_CLASS  # boxes of this name mark regions that are not counted
skip_bad_files = False  # go on without files that have problems, instead of stopping
batch_size = 8  # pictures that the network sees at once
device = ''  # 'cuda', 'mps', 'cpu', or '' for the fastest there is
font = ''  # font file for the labels; '' looks for one
progress = True  # show progress bars


def main():
    require(override(globals()), batch_size=(1, None), threshold=(0, 1))
    here = resolve(__file__, '.')
    path = resolve(__file__, weights) if weights else konohana.default_weights(here, use_res2block)
    model = konohana.load(path, device=device)
    print(f'Weights: {path}')

    labelled = not pictures_in
    if labelled:
        root = resolve(__file__, konohana_dataset_path)
        draw_default(root, here, [split], progress)
        (frames,), problems = read_frames(root, [split], ignore_class, progress)
        report(problems, skip_bad_files)
        if not frames:
            raise UserError(f'{root}: no usable frame in split {split!r}.')
    else:
        source = resolve(__file__, pictures_in)
        frames = [Sample(picture) for picture in ([source] if source.is_file() else list_pictures(source))]
    out = resolve(__file__, test_out or ('test_out_det3' if use_res2block else 'test_out'))

    # Pictures that cannot be read are named at the end; the others are done all the same.
    done, detections, unreadable = [], [], []
    names = output_names(frames, '.jpg')
    with progress_bar('Annotating', len(frames), progress) as bar:
        for start in range(0, len(frames), batch_size):
            chosen, images = [], []
            for frame in frames[start : start + batch_size]:
                try:
                    images.append(load_image(frame.path))
                    chosen.append(frame)
                except UserError as error:
                    unreadable.append(str(error))
            for frame, image, found in zip(chosen, images, predict_arrays(model, images), strict=True):
                frame.height, frame.width = image.shape[:2]
                save_image(out / names[frame.path], annotated(model, image, found))
                done.append(frame)
                found = encoded(found)
                detections.append({key: found[key] for key in ('boxes', 'labels', 'scores', 'rles') if key in found})
            bar.update(min(start + batch_size, len(frames)))

    print(f'{len(done)} annotated pictures are in {out}')
    if results_json:
        pictures = [(frame.path.name, frame.height, frame.width) for frame in done]
        # A COCO data set's own ids, so that its annotations and these detections go together.
        image_ids = [frame.image_id for frame in done] if all(frame.categories for frame in done) else None
        categories = done[0].categories if done and image_ids else None
        path = resolve(__file__, results_json)
        write_results_json(path, pictures, detections, model.class_names, image_ids, categories)
        print(f'All detections are in {path}')
    if labelled:
        print_figures(done, detections, model.class_names)
    if unreadable:
        raise UserError('\n'.join([f'{len(unreadable)} of {len(frames)} pictures were left out:', *unreadable]))


def predict_arrays(model, images):
    """List of uint8 H x W x 3 pictures -> list of detections, with the detector's maps for sheets."""
    images = [torch.from_numpy(image).permute(2, 0, 1) for image in images]
    return predict(model, images, with_maps=sheet) if images else []


def annotated(model, image, found):
    """A picture (uint8 H x W x 3) with what was found in it, as a sheet of four panels or alone."""
    style = {'label_names': label_names, 'threshold': threshold, 'font': resolve(__file__, font) if font else None}
    if not sheet:
        return drawing.draw_detections(image, found, model.class_names, **style)
    # The panels show the frame at the size at which the network sees it.
    hw = fit_size(*image.shape[:2], model.img_hw)
    seen = TF.resize(torch.from_numpy(image).permute(2, 0, 1), hw, antialias=True).permute(1, 2, 0).numpy()
    ratio = torch.tensor([hw[1] / image.shape[1], hw[0] / image.shape[0]] * 2)
    # Masks are drawn at any size, boxes as they are.
    shown = {**found, 'boxes': found['boxes'] * ratio}
    panels = {'frame': seen, 'found': drawing.draw_detections(seen, shown, model.class_names, **style)}
    for key in model.maps:
        panels[key] = drawing.heat_map(found[key], hw, background=seen)
    return drawing.sheet(list(panels.values()), list(panels))


def output_names(frames, ending):
    """{picture: name of its annotated picture}; pictures that differ in ending or folder alone keep that in it."""
    paths = [frame.path for frame in frames]
    stems, whole = Counter(path.stem for path in paths), Counter(path.name for path in paths)
    top = Path(os.path.commonpath([path.parent for path in paths]))
    names = {}
    for path in paths:
        name = path.stem if stems[path.stem] == 1 else path.name
        names[path] = ('_'.join(path.relative_to(top).parts) if whole[path.name] > 1 else name) + ending
    return names


def print_figures(frames, detections, class_names):
    """The figures of evaluation.py, for a split with labels."""
    unknown = sorted({name for frame in frames for name in frame.names} - set(class_names))
    if unknown:
        print(f'These weights do not know {", ".join(unknown)}: such characters can be found here, but not named.')
    class_names = [*class_names, *unknown]
    spell = {name: f'{name} {ROMANISED[name]}' if name in ROMANISED else name for name in class_names}
    print(format_figures(evaluate(frames, detections, class_names), spell.get))
    seen = finding(frames, detections, class_names, threshold)
    print(
        f'At threshold {threshold:g}: precision {seen["precision"]:.3f}, recall {seen["recall"]:.3f}, '
        f'F1 {seen["f1"]:.3f}; of those found, {seen["named"]:.1%} rightly named'
    )


if __name__ == '__main__':
    run(main)
