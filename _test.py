"""Find and name characters in pictures. Edit the variables below, or set them: python _test.py pictures_in=my_frames

Writes a sheet for each picture (frame, annotated frame, and the maps of a detector that has them, such as objectness
and quality) and prints metrics, of masks too, where there are labels. Beside the sheets it then also writes a page of
all mistakes, and charts. Without a trained net.pt it uses the shipped weights.
"""

from konohana.cast import IGNORE_CLASS
from konohana.settings import read, require, require_one_of, run

konohana_dataset_path = 'toy_show'  # folder of your dataset; the default, a toy show, is drawn when it is not there
split = 'val'  # split to evaluate
pictures_in = ''  # folder of pictures, or one picture, instead of a dataset; no labels needed
weights = ''  # weights file (.pt or .onnx); '' takes your net.pt, or else weights/net.pt
use_res2block = False  # if no weights file is named: net_det3.pt instead of net.pt
cast_path = ''  # folder with a sub-folder of 1 to 20 pictures for each character: name people by these; '' for none
cast_adds = False  # True: the names learned stay, and the cast adds characters, or other clothes, to them
cast_threshold = 0.6  # likeness to a character's pictures below which somebody is 'unknown', -1 to 1
threshold = 0.5  # lowest score that is drawn, 0 to 1
sheet = True  # True: panels at the detector's size; False: the annotated picture alone, at its own size
test_out = ''  # folder of the pictures; '' is test_out, or test_out_det3 with use_res2block
mistakes = True  # with labels: also write mistakes.html, confusion.png, precision_recall.png and f1.png
results_json = ''  # COCO-style file of all detections, with masks where there are any; '' for none
overwrite = False  # also replace files that this program did not write; inputs are never replaced
label_names = {}  # other spellings to draw, like {'柚': 'Yuzu'}
ignore_class = IGNORE_CLASS  # boxes with this name mark regions that are not counted
unlabelled = 'background'  # 'ignore': somebody found who has no label is not counted as a mistake of finding
skip_bad_files = False  # leave out files that have problems instead of stopping
batch_size = 8  # pictures in a batch
device = ''  # 'cuda', 'mps' or 'cpu'; '' takes the fastest there is
backend = 'auto'  # on the CPU: 'openvino', 'onnxruntime' or 'torch'; 'auto' takes the fastest that is installed
font = ''  # font file of the labels; '' finds one
progress = True  # show progress bars


def main(arguments=None):
    settings = read(globals(), arguments)
    require(settings, batch_size=(1, None), threshold=(0, 1), cast_threshold=(-1, 1))
    require_one_of(settings, unlabelled=('background', 'ignore'))
    # Imported here: PyTorch takes seconds, and --help should not.
    from konohana import default_weights, load, pictures
    from konohana.errors import UserError, count, noting
    from konohana.evaluation.coco_metrics import write_sample_results
    from konohana.evaluation.report import report_paths, write_report
    from konohana.evaluation.summary import report_metrics
    from konohana.files import claim

    here = settings.path('.')
    path = settings.path(settings.weights) if settings.weights else default_weights(here, settings.use_res2block)
    model = load(path, settings.device, backend=settings.backend)
    print(f'Weights: {path} (computed by {model.backend})')
    cast_pictures = take_cast(settings, model)

    samples, folders, inputs = pictures_of(settings)
    inputs += [path, *cast_pictures]
    if model.cast and not model.cast.adds:
        for sample in samples:  # for whoever is none of the cast, that is the right name
            sample.names = [name if name in model.class_names else model.class_names[-1] for name in sample.names]
    out = settings.path(settings.test_out or ('test_out_det3' if settings.use_res2block else 'test_out'))
    outputs = pictures.output_paths([sample.path for sample in samples], out)
    reports = report_paths(out) if settings.mistakes and not settings.pictures_in else []
    pictures.claim_outputs([*outputs, *reports], [*folders, *inputs], settings.overwrite)
    results_json = settings.path(settings.results_json) if settings.results_json else None
    if results_json:
        claim(results_json, inputs, settings.overwrite, 'results_json')

    done, detections, problems = pictures.annotate(
        model, samples, outputs, draw_function(settings, model), settings.batch_size, settings.sheet, settings.progress
    )
    n_left_out = len(problems)
    written = count(len(samples) - n_left_out, 'annotated picture is', 'annotated pictures are')
    print(f'{written} in {out}')
    if results_json:
        # The metrics are printed even if this cannot be written.
        with noting(problems, results_json):
            write_sample_results(results_json, done, detections, model.class_names)
            print(f'All detections are in {results_json}')
    if not settings.pictures_in:
        print(report_metrics(done, detections, model.class_names, settings.threshold, settings.unlabelled))
    if reports:
        sheets = dict(zip([sample.path for sample in samples], outputs, strict=True))
        sheets = [sheets[sample.path] for sample in done]
        options = {key: getattr(settings, key) for key in ('label_names', 'unlabelled', 'progress')}
        options['font'] = font_of(settings)
        lines, more = write_report(out, done, detections, model.class_names, settings.threshold, sheets, **options)
        print('\n'.join(lines))
        problems += more
    if problems:
        many = f'{n_left_out} of {count(len(samples), "picture was", "pictures were")} left out:'
        raise UserError('\n'.join([*([many] if n_left_out else []), *pictures.problem_lines(problems)]))


def pictures_of(settings):
    """(list of samples, with labels if a dataset's; the folders whose pictures are read; all files that are read)."""
    from konohana.data.images import list_pictures
    from konohana.data.reading import frames_of_split, label_files
    from konohana.data.sample import Sample
    from konohana.toy.writer import draw_default

    if settings.pictures_in:
        source = settings.path(settings.pictures_in)
        if source.is_file():
            return [Sample(source)], [], [source]
        paths = list_pictures(source)
        return [Sample(path) for path in paths], [source], paths
    root = settings.path(settings.konohana_dataset_path)
    draw_default(root, settings.path('.'), [settings.split], settings.progress)
    options = settings.ignore_class, settings.progress, settings.skip_bad_files
    samples = frames_of_split(root, settings.split, *options)
    paths = [sample.path for sample in samples]
    return samples, {path.parent for path in paths}, [*paths, *label_files(root, settings.split)]


def font_of(settings):
    """The path of the font file to prefer, or None."""
    return settings.path(settings.font) if settings.font else None


def take_cast(settings, model):
    """Name people by the cast in `cast_path`, if there is one -> list of its pictures."""
    from konohana import own_cast

    if not settings.cast_path:
        return []
    folder = settings.path(settings.cast_path)
    used, line = own_cast.give(model, folder, settings.cast_adds, settings.cast_threshold)
    print(line)
    return used


def draw_function(settings, model):
    """What turns a picture and its detections into the picture to write."""
    from functools import partial

    from konohana.drawing import draw_detections
    from konohana.pictures import detection_sheet

    style = {
        'class_names': model.class_names,
        'label_names': settings.label_names,
        'threshold': settings.threshold,
        'font': font_of(settings),
    }
    if settings.sheet:
        return partial(detection_sheet, img_hw=model.img_hw, maps=model.maps, **style)
    return partial(draw_detections, **style)


if __name__ == '__main__':
    run(main)
