"""Give the scripts hundreds of damaged inputs and count what they make of them: python tests/mutate_inputs.py count=50

Every input is a copy of a small, good one in which one thing is wrong. The scripts must answer each with one clear
line, or use it where nothing is wrong after all. Counted are:

line        exit status 2, and a line that names the file (or the variable)
used        exit status 0: the input was taken
vague       exit status 2, but the line does not name the file
silent      exit status 0 though the input is certainly wrong
traceback   an exception that is nobody's mistake but ours, or a crash
hang        no answer within `time_limit`
loss        a file of the user's has changed or is gone

Everything but the first two is a bug; these are listed, with what is needed to see them again. The same seed gives the
same inputs. A sample of them runs in the test suite. Each case runs in a forked process, so this needs Linux or macOS.
"""

import collections
import functools
import io
import json
import math
import os
import random
import re
import resource
import shutil
import signal
import struct
import sys
import tempfile
import time
import zipfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
sys.path.insert(0, str(Path(__file__).resolve().parent))

import conftest
import torch
from PIL import Image

from konohana import files
from konohana.errors import UserError
from konohana.settings import read, require, run
from konohana.toy import writer

kinds = []  # kinds of input, like ['voc', 'weights']; [] takes all
count = 40  # inputs of each kind
seed = 0  # the same seed gives the same inputs
time_limit = 60.0  # seconds that a script may take
memory_gib = 6.0  # memory that a script may take beyond what it has at the start
keep = ''  # folder to which the damaged inputs of bugs are copied; '' for none
show_all = False  # list the answers to all inputs, not only the bugs

GOOD = ('line', 'used')
TINY = ('img_hw=64,96', 'batch_size=2', 'num_workers=0', 'n_epoch=1', 'eval_every=1', 'paste=0')
# What may stand where a number, a text or a list is expected.
UGLY = (None, True, -1, 0, 0.5, 1e308, math.inf, math.nan, 10**30, 2**63, '', 'x', '1_0', ' 5', 'nan', '花', '\x1b[31m')
UGLY += ('a\nb', '\u202e', '\0', '../../x', '/etc/passwd', 'x' * 5000, [], {}, [[]], {'a': 1}, [1, 2, 3], [None] * 4)
WORDS = ('', ' ', 'x', '0', '-1', '1', '2', '0.5', '1e-300', '1e999', '-1e999', 'nan', 'inf', '9' * 18, '1' + '0' * 400)
WORDS += (
    '10**400',
    'True',
    'None',
    '(1,2)',
    '(1,1e7)',
    '(0,0)',
    "('a','b')",
    '[]',
    '{}',
    '{1:2}',
    "{'a':'b'}",
    '"',
    '~',
)
WORDS += ('~nobody-here/x', '/', '/dev/null', '/dev/zero', '/proc/self/mem', '..', 'x' * 300, '花' * 90, 'a/' * 3000)
WORDS += ('\udcff', '\x1b[31m', 'a\nb', '\u202e', 'meta', 'cuda:99', 'yolof', 'train', '*', '%s', '((((((', 'con', '-')
# These decide how long a script takes: large values are no mistake.
OUTPUTS = ('test_out', 'results_json', 'video_out', 'checkpoint_path', 'log_path')
LONG = ('n_epoch', 'max_minutes', 'pretrained', 'detector', 'backbone', 'img_hw', 'video_in', 'show')


# ---- what is damaged: each function takes a folder with a good input and changes one thing; it returns the file that
# ---- a message must name, and whether the input is then certainly wrong


def damage_file(path, rng):
    """Change any file in ways that know nothing of its format."""
    data = bytearray(path.read_bytes())
    start = rng.randrange(max(len(data), 1))
    way = rng.choice(
        ('cut', 'cut', 'bytes', 'bytes', 'bytes', 'twice', 'zeros', 'insert', 'empty', 'folder', 'pipe', 'loop', 'gone')
    )
    if way in ('folder', 'pipe', 'loop', 'gone'):
        path.unlink()
        if way == 'folder':
            path.mkdir()
        elif way == 'pipe':
            os.mkfifo(path)
        elif way == 'loop':
            path.symlink_to(path.name)
        return path, True
    if way == 'cut':
        del data[start:]
    elif way == 'bytes':
        for _ in range(rng.choice((1, 3, 30))):
            data[rng.randrange(len(data))] = rng.randrange(256)
    elif way == 'twice':
        data *= 2
    elif way == 'zeros':
        data[start : start + 1000] = bytes(len(data[start : start + 1000]))
    elif way == 'insert':
        data[start:start] = rng.randbytes(20)
    elif way == 'empty':
        data.clear()
    path.write_bytes(data)
    return path, way == 'empty'


NUMBERS = ('abc', 'nan', 'inf', '1e999', '', '1_0', '-50', '99999', '１２', '0x10', '1,5', '9' * 400)
XML_CHANGES = (
    (r'<xmin>.*?</xmin>', '<xmin/>', True),
    (r'<xmax>.*?</xmax>', '', True),
    (r'(?s)<bndbox>.*?</bndbox>', '', True),
    (r'(?s)(<bndbox>.*?</bndbox>)', r'\1\1', True),
    (r'<name>.*?</name>', '<name/>', True),
    (r'<name>.*?</name>', '<name>\u202e花</name>', True),
    (r'<name>.*?</name>', '<name>' + 'x' * 5000 + '</name>', True),
    (r'<name>(.*?)</name>', r'<name>\1</name><name>\1</name>', True),
    (r'object>', 'Object>', True),
    (r'object>', 'item>', True),
    (r'annotation>', 'annotations>', True),
    (r'<width>\d+', '<width>7', True),
    (r'<annotation>', '<annotation>' + '<a>' * 100_000, True),
    (r'^', '<?xml version="1.0" encoding="utf-16"?>', True),
    (r'^', '<!DOCTYPE a [<!ENTITY a SYSTEM "file:///etc/passwd">]>', None),
    (r'<name>.*?</name>', '<name>&a;</name>', True),
    (r'<difficult>\d', '<difficult>x', True),
    (r'$', '<!-- nothing -->\n', False),
    (r'<annotation>', '<annotation><folder>x</folder>', False),
)
BOMB = '<!DOCTYPE a [<!ENTITY b0 "x">' + ''.join(f'<!ENTITY b{i + 1} "{f"&b{i};" * 10}">' for i in range(10)) + ']>'


def damage_voc(root, rng):
    path = rng.choice(sorted((root / 'anns').glob('*train*')))
    text = path.read_text(encoding='utf-8')
    if rng.random() < 0.3:
        return damage_file(path, rng)
    if rng.random() < 0.3:
        side, value = rng.choice(('xmin', 'ymin', 'xmax', 'ymax')), rng.choice(NUMBERS)
        pattern, new, wrong = rf'<{side}>.*?</{side}>', f'<{side}>{value}</{side}>', True
    elif rng.random() < 0.05:
        pattern, new, wrong = r'(?s)^(.*)<name>.*?</name>', BOMB + r'\1<name>&b10;</name>', True
    else:
        pattern, new, wrong = rng.choice(XML_CHANGES)
    changed = re.sub(pattern, new, text, count=0 if pattern.endswith(('object>', 'annotation>')) else 1)
    path.write_text(changed, encoding='utf-8')
    return path, wrong and changed != text


def damage_coco(root, rng):
    path = root / 'annotations' / 'instances_val.json'
    if rng.random() < 0.15:
        return damage_file(path, rng)
    content = json.loads(path.read_text(encoding='utf-8'))
    wrong = None
    if rng.random() < 0.5:
        content = replace_somewhere(content, rng)
    else:
        annotation, image = rng.choice(content['annotations']), rng.choice(content['images'])
        change = rng.randrange(9)
        if change < 5:
            values = {'iscrowd': '0', 'bbox': [1, 2, 3], 'category_id': 999, 'image_id': 999, 'segmentation': [[1, 2]]}
            key = list(values)[change]
            annotation[key] = values[key]
        elif change == 5:
            annotation['bbox'][2] *= -1
        elif change == 6:
            content['images'].append(image)
        elif change == 7:
            image['file_name'] = rng.choice(('../../x.jpg', 'a\0b', '', 'no such.jpg', '花' * 100))
        else:
            content['categories'][0]['name'] = content['categories'][1]['name']
        wrong = change < 8 or None  # names that no annotation has may be twice there
    path.write_text(json.dumps(content), encoding='utf-8')
    return path, wrong


def replace_somewhere(value, rng):
    """A nested structure in which one value is ugly, gone or twice there."""
    if not isinstance(value, (dict, list)) or not value or rng.random() < 0.05:
        return rng.choice(UGLY)
    keys = list(value) if isinstance(value, dict) else range(len(value))
    key = rng.choice(keys)
    if rng.random() < 0.1:
        if isinstance(value, dict) or rng.random() < 0.5:
            del value[key]
        else:
            value.append(value[key])
    else:
        value[key] = replace_somewhere(value[key], rng)
    return value


def damage_classes(root, rng):
    path = root / 'classes.txt'
    names = path.read_text(encoding='utf-8').split('\n')
    changes = (
        (names + names[:1], True),
        (names[1:], None),
        ([], None),
        (['不计算', *names], True),
        ([*names, 'a\x1b[31m'], True),
        ([*names, '\u202e'], True),
        ([*names, 'x' * 5000], None),
        ([*names, ''], False),
        (['\ufeff' + names[0], *names[1:]], False),
        ([*names, names[0] + ' '], True),
    )
    if rng.random() < 0.3:
        return damage_file(path, rng)
    lines, wrong = rng.choice(changes)
    path.write_text('\n'.join(lines), encoding=rng.choice(('utf-8', 'utf-8', 'utf-8', 'utf-16')))
    return path, wrong


def damage_splits(root, rng):
    path = root / 'sets' / 'val.txt'
    names = path.read_text(encoding='utf-8').split()
    changes = (
        (names + names[:1], None),
        ([*names, names[0] + '.jpg'], True),
        ([*names, 'no such frame'], True),
        ([*names, '../imgs/' + names[0]], True),
        ([*names, '/etc/passwd'], True),
        ([*names, 'a\0b'], True),
        ([*names, '花' * 100], True),
        ([*names, '\x1b[31m'], True),
        ([], True),
        ([*names, '', ''], False),
        ([name + ' ' for name in names], False),
    )
    if rng.random() < 0.2:
        return None, damage_file(path, rng)[1]
    lines, wrong = rng.choice(changes)
    path.write_text('\n'.join(lines) + '\n', encoding='utf-8', newline=rng.choice(('\n', '\r\n')))
    return None, wrong  # what is missing is named, not the list


def damage_pictures(root, rng):
    path = rng.choice(sorted((root / 'imgs').glob('*val*')))
    way = rng.randrange(12)
    with Image.open(path) as image:
        image = image.convert('RGB')
    if way == 0:
        path.write_bytes(b'%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\n{} loop\n')
        return path, True
    if way == 1:
        png = io.BytesIO()
        image.resize((1, 1)).save(png, 'PNG')
        data = bytearray(png.getvalue())
        data[16:24] = struct.pack('>II', 60_000, 60_000)
        path.write_bytes(data)
        return path, True
    if way == 2:
        path.write_bytes(b'<svg xmlns="http://www.w3.org/2000/svg"/>')
        return path, True
    if way == 3:
        image.resize((rng.choice((1, 5, 160)), rng.choice((1, 7, 91)))).save(path, 'JPEG')
        return path, None  # without labels any size will do
    if way in (4, 5, 6):
        form, mode = rng.choice(
            (('TIFF', 'CMYK'), ('PNG', 'P'), ('GIF', 'P'), ('BMP', 'L'), ('ICO', 'RGB'), ('PDF', 'RGB'))
        )
        image.convert(mode).save(path, form)
        return path, None
    return damage_file(path, rng)


def damage_weights(root, rng):
    path = root / 'net.pt'
    way = rng.random()
    if way < 0.4:
        return damage_file(path, rng)
    content = torch.load(path, weights_only=True)
    if way < 0.5:
        with zipfile.ZipFile(path) as archive:
            members = {name: archive.read(name) for name in archive.namelist()}
        method = rng.choice((zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA))
        with zipfile.ZipFile(path, 'w', method) as archive:
            for name, data in members.items():
                archive.writestr(name, data)
        return damage_file(path, rng)
    if way < 0.7:
        name = rng.choice([name for name, value in content['model'].items() if value.is_floating_point()])
        value = content['model'][name].clone()
        value.view(-1)[0] = rng.choice((math.nan, math.inf, -1e30))
        content['model'][name] = value
        wrong = True if not math.isfinite(value.view(-1)[0]) else None
    elif way < 0.8:
        name = rng.choice(list(content['model']))
        value = content['model'][name]
        changes = (
            value[..., None],
            value.double(),
            value.to(torch.complex64),
            value.to_sparse(),
            torch.zeros(1).expand(10**9),
        )
        content['model'][name], wrong = rng.choice(changes), None
    else:
        model = content.pop('model')
        content = replace_somewhere(content, rng)
        content = {**content, 'model': model} if isinstance(content, dict) else content
        wrong = None
    torch.save(content, path)
    return path, wrong


def damage_optim(root, rng):
    path = root / 'optim.pt'
    if rng.random() < 0.2:
        return damage_file(path, rng)
    content = torch.load(path, weights_only=True)
    big = {key: content.pop(key) for key in ('model', 'ema')}
    if rng.random() < 0.15:
        part = rng.choice(list(big.values()))
        part[rng.choice(list(part))] = rng.choice((*UGLY[:10], torch.zeros(3), torch.full((1,), math.nan)))
    elif rng.random() < 0.3:
        state = content['optimizer']['state']
        key = rng.choice(list(state))
        state[key][rng.choice(list(state[key]))] = rng.choice(
            (*UGLY[:10], torch.zeros(3), torch.zeros(1, dtype=torch.long))
        )
    else:
        content = replace_somewhere(content, rng)
    torch.save({**content, **big} if isinstance(content, dict) else content, path)
    return path, None


def damage_onnx(root, rng):
    import onnx

    path = root / 'net.onnx'
    if rng.random() < 0.5:
        return damage_file(path, rng)
    model = onnx.load(path)
    entry = rng.choice(list(model.metadata_props))
    try:
        entry.value = json.dumps(replace_somewhere(json.loads(entry.value), rng))
    except ValueError:
        entry.value = str(rng.choice(UGLY)).replace('\0', '')
    onnx.save(model, path)
    return path, None


def damage_video(root, rng):
    path = root / 'show.mp4'
    way = rng.randrange(10)
    if way == 0:
        path.write_text('#EXTM3U\n#EXTINF:1,\nhttp://127.0.0.1:9/x.ts\n', encoding='utf-8')
        return path, True
    if way == 1:
        Image.new('RGB', (64, 64)).save(path, 'PNG')
        return path, True
    if way == 2:
        frames = [Image.new('RGB', (64, 64), colour) for colour in ('red', 'blue', 'green')]
        frames[0].save(path, 'PNG', save_all=True, append_images=frames[1:], duration=0)
        return path, None
    if way == 3:
        path.write_text('ffconcat version 1.0\nfile /etc/passwd\n', encoding='utf-8')
        return path, True
    return damage_file(path, rng)


def damage_nothing(root, rng):
    """For the variables, which are no files."""
    return None, None


# ---- which script is given which input


def looking(*changes):
    return ('_test.py', 'konohana_dataset_path={root}', 'weights={root}/net.pt', 'test_out={out}', *changes)


TRAIN = ('_train.py', 'konohana_dataset_path={root}', 'checkpoint_path={out}', 'log_path={out}/logs', *TINY)
VIDEO = ('_test_with_video.py', 'weights={root}/net.pt', 'video_in={root}/show.mp4', 'video_out={out}/a.mkv')
# Kind: (what damages it, the command lines of which one is taken).
KINDS = {
    'voc': (damage_voc, [looking('split=train'), looking('split=train'), TRAIN]),
    'coco': (damage_coco, [looking(), looking(), TRAIN]),
    'classes': (damage_classes, [TRAIN]),
    'splits': (damage_splits, [looking()]),
    'pictures': (damage_pictures, [looking(), ('_test.py', 'pictures_in={root}/imgs', *looking()[2:])]),
    'weights': (damage_weights, [looking(), (*TRAIN, 'init_from={root}/net.pt'), VIDEO]),
    'optim': (damage_optim, [('_train.py', 'konohana_dataset_path={root}', 'checkpoint_path={root}', *TRAIN[3:])]),
    'onnx': (damage_onnx, [(*looking()[:2], 'weights={root}/net.onnx', *looking()[3:])]),
    'video': (damage_video, [VIDEO]),
    'arguments': (damage_nothing, [looking(), TRAIN, VIDEO]),
}


def make_good_inputs(folder, chosen):
    """A folder for each of the kinds, with everything that the scripts read in it."""
    base = folder / 'base'
    writer.write_voc(base, n_train=3, n_val=2, hw=(90, 160), progress=False)
    files.write_text(base / 'classes.txt', '\n'.join(conftest.CLASS_NAMES))
    conftest.make_weights(base / 'net.pt')
    if {'video', 'weights', 'arguments'} & set(chosen):
        writer.write_video(base / 'show.mp4', seconds=0.5, fps=10, hw=(64, 96))
    for kind in chosen:
        shutil.copytree(base, folder / kind)
    if 'coco' in chosen:
        shutil.rmtree(folder / 'coco')
        writer.write_coco(folder / 'coco', n_train=2, n_val=2, hw=(90, 160), progress=False)
        shutil.copy(base / 'net.pt', folder / 'coco')
    if 'optim' in chosen:
        optim = folder / 'optim'
        (optim / 'net.pt').unlink()
        places = (f'konohana_dataset_path={optim}', f'checkpoint_path={optim}', f'log_path={folder}/logs')
        make(folder, '_train.py', *places, *TINY)
    if 'onnx' in chosen:
        paths = (f'weights={base}/net.pt', f'onnx_out={folder}/onnx/net.onnx')
        make(folder, 'tools/export_onnx.py', *paths, 'n_pictures=1')


def make(folder, *command):
    """Run a script that makes a good input."""
    status, text = answer(command, folder, 300)
    if status:
        raise UserError(f'{command[0]} could not make an input: {text}')


def cases(chosen, number, start):
    """(kind, number of the case, its random generator) of all cases, the same for the same seed."""
    return [(kind, i, random.Random(f'{start} {kind} {i}')) for kind in chosen for i in range(number)]


def contents(folder):
    """{path: content} of all files in a folder."""
    return {path: path.read_bytes() for path in folder.rglob('*') if path.is_file() and not path.is_symlink()}


def try_case(kind, rng, good, limit, gib, kept=None):
    """Damage a copy of the good input, give it to a script -> (outcome, command, what it printed)."""
    damage, commands = KINDS[kind]
    with tempfile.TemporaryDirectory(dir=good) as work:
        root, out = Path(work, 'in 花'), Path(work, 'out')
        shutil.copytree(good / kind, root)
        named, wrong = damage(root, rng)
        command = [part.format(root=root, out=out) for part in rng.choice(commands)]
        if kind == 'arguments':
            variable = rng.choice([name for name in variables_of(command[0]) if name not in LONG])
            word = rng.choice(WORDS)
            # Nothing is written outside of the folder that is removed afterwards.
            command.append(f'{variable}={out}/{word}' if variable in OUTPUTS else f'{variable}={word}')
        before = contents(root)
        status, text = answer(command, Path(work), limit, gib)
        after = contents(root)
        # A run that goes on writes its own files anew.
        lost = [
            path for path in before if before[path] != after.get(path) and not (kind == 'optim' and path.parent == root)
        ]
        name = named.name if isinstance(named, Path) else named
        found = outcome(status, text, name, wrong, lost)
        if kept and found not in GOOD:
            shutil.copytree(root, kept, symlinks=True, ignore=_not_kept)
        return found, command, text


def _not_kept(folder, names):
    """For `shutil.copytree`: pipes cannot be copied, and the weights are always the same."""
    return [name for name in names if name == 'net.pt' or Path(folder, name).is_fifo()]


@functools.cache
def variables_of(script):
    return list(vars(read(vars(conftest.load_script(script)), [])))


def outcome(status, text, named, wrong, lost):
    if lost:
        return 'loss'
    if status is None:
        return 'hang'
    if 'Traceback' in text or status not in (0, 2):
        return 'traceback'
    if status == 0:
        return 'silent' if wrong and not (named and named in text) else 'used'
    shown = re.sub(r'\\x1b|\\u202e', '', text)
    return 'line' if 'Error: ' in text and (not named or named in shown) else 'vague'


def answer(command, folder, limit=60.0, gib=6.0):
    """Run a script in a forked process -> (exit status, None after `limit` seconds; what it printed)."""
    name, *arguments = command
    with tempfile.TemporaryFile() as printed:
        pid = os.fork()
        if not pid:
            status = 1
            try:
                os.setsid()
                os.dup2(printed.fileno(), 2)
                size = (
                    int(Path('/proc/self/statm').read_text().split()[0]) * resource.getpagesize()
                    if Path('/proc').is_dir()
                    else 0
                )
                resource.setrlimit(resource.RLIMIT_AS, (size + int(gib * 2**30),) * 2)
                done = conftest.run_in_process(name, conftest.arguments_of(name, arguments), folder)
                printed.write((done.stdout + done.stderr).encode(errors='replace'))
                printed.flush()
                status = done.returncode
            finally:
                os._exit(status)
        ended, end = None, time.monotonic() + limit
        while ended is None and time.monotonic() < end:
            found, code = os.waitpid(pid, os.WNOHANG)
            ended = code if found else None
            time.sleep(0.01)
        if ended is None:
            os.killpg(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
        printed.seek(0)
        return None if ended is None else os.waitstatus_to_exitcode(ended), printed.read().decode(errors='replace')


def main(arguments=None):
    settings = read(globals(), arguments)
    require(settings, count=(1, None), time_limit=(1, None), memory_gib=(0.5, None))
    unknown = set(settings.kinds) - set(KINDS)
    if unknown:
        raise UserError(f'kinds={settings.kinds}: the kinds are {", ".join(KINDS)}.')
    chosen, totals = settings.kinds or list(KINDS), collections.defaultdict(collections.Counter)
    with tempfile.TemporaryDirectory() as folder:
        make_good_inputs(Path(folder), chosen)
        for kind, i, rng in cases(chosen, settings.count, settings.seed):
            kept = settings.path(settings.keep) / f'{kind} {i}' if settings.keep else None
            limits = settings.time_limit, settings.memory_gib
            found, command, text = try_case(kind, rng, Path(folder), *limits, kept)
            totals[kind][found] += 1
            if settings.show_all or found not in GOOD:
                print(f'{found}: {kind} {i} of seed {settings.seed}: {" ".join(command)[:300]!r}')
                print('    ' + '\n    '.join(text.strip().splitlines()[-6:]), flush=True)
    for kind in chosen:
        print(f'{kind:10} ' + ', '.join(f'{n} {name}' for name, n in sorted(totals[kind].items())))
    everything = sum(totals.values(), collections.Counter())
    print(f'{"all":10} ' + ', '.join(f'{n} {name}' for name, n in sorted(everything.items())))


if __name__ == '__main__':
    run(main)
