"""Look over a dataset before training: python tools/check_dataset.py konohana_dataset_path=my_show

Writes check.html, one page with a picture of each finding and what to do, and check.txt. It finds pictures that two
splits share, boxes that are duplicated, tiny or off their picture, names that look like one another, labels that are
likely wrong, and with weights those that are likely missing. fix=True writes a copy of the dataset in which what can be
put right is put right; split='episode' writes a copy with a split that keeps episodes or scenes together.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from konohana import files
from konohana.cast import IGNORE_CLASS
from konohana.errors import UserError, count
from konohana.settings import read, require, require_one_of, run

ROOT = Path(__file__).resolve().parent.parent

konohana_dataset_path = 'toy_show'  # folder of your dataset, which is not changed
splits = ''  # splits to look over, such as 'train, val'; '' is all of them
weights = ''  # weights file, such as 'weights/net.pt', to look for missing labels too; '' for none
threshold = 0.5  # lowest score of somebody whose label may be missing, 0 to 1
check_out = ''  # folder of check.html and check.txt; '' is check_ and the dataset's name
fix = False  # write a copy in which what can be put right is put right
split = ''  # 'episode': write a copy with a new train and val that keep whole episodes or scenes together
fixed_out = ''  # folder of the copy, a new one; '' is the dataset's name and _fixed
form = ''  # form of the copy: voc, coco, yolo, label_studio, cvat or labelme; '' as the dataset
ignore_class = IGNORE_CLASS  # boxes with this name mark regions that are not counted
label_names = {}  # other spellings to show, like {'柚': 'Yuzu'}
batch_size = 8  # pictures that the weights see at once
device = ''  # 'cuda', 'mps' or 'cpu'; '' takes the fastest there is
overwrite = False  # also replace files that this program did not write; the dataset is never changed
progress = True  # show progress bars


def main(arguments=None):
    settings = read(globals(), arguments, folder=ROOT)
    require(settings, batch_size=(1, None), threshold=(0, 1))
    require_one_of(settings, split=('', 'episode'))
    from konohana import load  # imported here, so that --help answers at once
    from konohana.checkup import report
    from konohana.checkup.all import check_dataset
    from konohana.data.reading import chosen_splits

    root = settings.path(settings.konohana_dataset_path)
    draw_toy_show(settings, root)
    names = sorted(chosen_splits(root, settings.splits), key=lambda name: name.lower() != 'train')
    out = settings.path(settings.check_out or f'check_{root.name}')
    page, text = out / 'check.html', out / 'check.txt'
    for path in (page, text):
        files.claim(path, [], settings.overwrite, 'check_out')
    target = claim_copy(settings, root)
    model = load(settings.path(settings.weights), settings.device) if settings.weights else None

    options = settings.threshold, settings.batch_size, settings.progress
    done = check_dataset(root, names, settings.ignore_class, model, *options)
    notes = [*done.notes, *(write_copy(settings, root, target, done) if target else [])]
    told = root, done.samples, done.splits, done.findings, notes
    print('\n'.join(report.text_of(*told)))
    files.write_text(text, '\n'.join(report.text_of(*told, n_lines=None)) + '\n', remember=True)

    def spell(name):
        return str(settings.label_names.get(name, name))

    report.write_page(page, *told, spell, settings.progress)
    print(f'\n{count(len(done.findings), "finding")} with pictures: {page}')


def draw_toy_show(settings, root):
    from konohana.toy.writer import draw_default

    draw_default(root, ROOT, progress=settings.progress)


def claim_copy(settings, root):
    """The folder of the copy, checked before the work starts; None where none is to be written."""
    from konohana import writing
    from konohana.data import reading

    if not (settings.fix or settings.split):
        if settings.fixed_out or settings.form:
            raise UserError("fixed_out and form are of a copy, which is written with fix=True or split='episode'.")
        return None
    target = settings.path(settings.fixed_out) if settings.fixed_out else files.beside(root, '_fixed')
    form = settings.form or reading.form_of(root) or 'voc'
    writing.writer_of(form)
    writing.check_target(target, root, form, 'fixed_out')
    return target


def write_copy(settings, root, target, check):
    """Write the copy; returns lines that say what was done."""
    from konohana import writing
    from konohana.checkup import fixing, splitting
    from konohana.data import reading

    notes, splits, found = [], check.splits, check.findings if settings.fix else []
    if settings.split:
        splits, notes = splitting.propose(check.samples, check.near)
        found = [one for one in found if one.kind != 'leak']  # the new split keeps pictures that look alike together
    parts, done = fixing.fixed(check.samples, splits, found)
    form = settings.form or reading.form_of(root) or 'voc'
    frames = [frame for part in parts.values() for frame in part]
    class_names = reading.class_names_of(root, check.samples, settings.ignore_class)
    gone = {name for frame in check.samples for name in frame.names} - {
        name for frame in frames for name in frame.names
    }
    class_names = [name for name in class_names if name not in gone]
    options = settings.ignore_class, settings.overwrite, 'fixed_out', settings.progress
    lost = writing.write_dataset(target, parts, form, class_names, *options)
    return [*notes, *done, *lost, f'The copy is in {target}: {count(len(frames), "picture")}']


if __name__ == '__main__':
    run(main)
