"""Variables at the top of a script: setting them, wrong names and values, --help, and how a script ends."""

import getpass
import os
import re
import subprocess
import sys
import tempfile
import warnings
from pathlib import Path

import pytest
import torch
from conftest import PROJECT

from konohana.errors import UserError, printable
from konohana.settings import Settings, as_arguments, read, require, require_whole, run

SCRIPT = '''"""Does things to pictures."""
from pathlib import Path

from konohana.errors import UserError
from konohana.settings import read, run

folder = ''  # where the pictures are
img_hw = (360, 640)  # height and width
names = {
    'a': 'b',
}  # other spellings
lr = 1e-3
CONSTANT = 5  # no variable


def main(arguments=None):
    settings = read(globals(), arguments)
    print(f'{settings.folder!r} {settings.img_hw} {settings.path(settings.folder)}')
    if settings.folder == 'none':
        raise UserError('none: there is no such folder.')
    if settings.folder == 'ctrl-c':
        raise KeyboardInterrupt
    if settings.folder == 'late':
        import atexit, signal

        atexit.register(signal.raise_signal, signal.SIGINT)


if __name__ == '__main__':
    run(main)
'''


def variables():
    return {
        '__file__': 'script.py',
        '_private': 1,
        'CONSTANT': 1,
        'function': print,
        'amp': True,
        'n_epoch': 50,
        'lr': 1e-3,
        'video_in': '',
        'img_hw': (360, 640),
        'scale': (0.6, 1.6),
        'label_names': {'柚': 'Yuzu'},
        'leave_out': ['other', 'unknown'],
        'nothing': None,
    }


@pytest.mark.parametrize(
    ('argument', 'value'),
    [
        ('amp=False', False),
        ('amp=true', True),
        ('n_epoch=3', 3),
        ('--n_epoch=3', 3),
        ('n_epoch=-3', -3),
        ('lr=5e-4', 5e-4),
        ('lr=1', 1.0),
        ('video_in=my show, part 1.mkv', 'my show, part 1.mkv'),
        ('video_in=a=b.mkv', 'a=b.mkv'),
        ('video_in=', ''),
        ('video_in=0', '0'),
        ('video_in=007', '007'),
        ('video_in=1e5', '1e5'),
        ('video_in=None', 'None'),
        ('video_in=(1, 2)', '(1, 2)'),
        ('video_in=木花.mkv', '木花.mkv'),
        ('video_in=C:\\new\\table\\x41.mkv', 'C:\\new\\table\\x41.mkv'),
        ('video_in="C:\\new\\Users.mkv"', 'C:\\new\\Users.mkv'),
        ("video_in='C:\\Users\\new one.mkv'", 'C:\\Users\\new one.mkv'),
        ("video_in=it's.mkv", "it's.mkv"),
        ('video_in="', '"'),
        ('img_hw=(64, 96)', (64, 96)),
        ("leave_out=['a', 'b', 'c']", ['a', 'b', 'c']),
        ('leave_out=[]', []),
        ('img_hw=64,96', (64, 96)),
        ('img_hw=[64, 96]', (64, 96)),
        ('scale=1,2', (1, 2)),
        ("label_names={'柚': 'Y'}", {'柚': 'Y'}),
        ('label_names={}', {}),
        ('nothing=5', 5),
        ('nothing=text', 'text'),
        ('nothing=None', None),
    ],
)
def test_value(argument, value):
    script_globals = variables()
    with warnings.catch_warnings():
        warnings.simplefilter('error')  # Python warns of \U and the like in what it takes for a literal
        settings = read(script_globals, [argument])
    name = argument.lstrip('-').partition('=')[0]
    assert getattr(settings, name) == value
    assert type(getattr(settings, name)) is type(value)
    assert script_globals == variables()


def test_only_what_is_named_changes():
    names = ('amp', 'n_epoch', 'lr', 'video_in', 'img_hw', 'scale', 'label_names', 'leave_out', 'nothing')
    expected = {name: variables()[name] for name in names}
    assert vars(read(variables(), ['n_epoch=3', 'lr=0.1'])) == {**expected, 'n_epoch': 3, 'lr': 0.1}


def test_a_former_name_still_counts():
    settings = read(variables(), ['epochs=3'], aliases={'epochs': 'n_epoch'})
    assert settings.n_epoch == 3 and not hasattr(settings, 'epochs')
    with pytest.raises(UserError, match='n_epoch=x: n_epoch takes'):
        read(variables(), ['--epochs=x'], aliases={'epochs': 'n_epoch'})


@pytest.mark.parametrize('value', [0, -1, 11, float('nan'), float('inf')])
def test_require(value):
    require(Settings(n=1, p=10), n=(1, 10), p=(1, None))
    with pytest.raises(UserError, match='it must be a number from 1 to 10'):
        require(Settings(n=value), n=(1, 10))


@pytest.mark.parametrize(
    ('argument', 'words'),
    [
        ('n_epoch=2.5', ('n_epoch=2.5', 'whole number')),
        ('n_epoch=True', ('whole number',)),
        ('n_epoch=many', ('whole number',)),
        ('n_epoch=', ('whole number',)),
        ('lr=fast', ('a number',)),
        ('lr=True', ('a number',)),
        ('amp=1', ('True or False',)),
        ('amp=yes', ('True or False',)),
        ('img_hw=360', ('brackets', '(360, 640)')),
        ('img_hw=360x640', ('brackets',)),
        ('scale=2', ('brackets, like scale=(0.6, 1.6).',)),
        ('img_hw=(1, 2, 3)', ('2 values',)),
        ('leave_out=[1]', ('such values', "['other', 'unknown']")),
        ("img_hw=('a', 'b')", ('2 values',)),
        ('label_names=柚', ('braces',)),
        ('label_names={1, 2}', ("braces, like label_names={'柚': 'Yuzu'}.",)),
        ('lr=__import__("os").getcwd()', ('a number',)),
        ('lr=1e999', ('numbers are from',)),
        ('lr=-1e999', ('numbers are from',)),
        ('lr=1' + 40 * '0', ('numbers are from',)),
        ('n_epoch=1' + 40 * '0', ('numbers are from',)),
        ('n_epoch=10**400', ('whole number',)),
        ('n_epoch=1j', ('whole number',)),
        ('scale=(1, 1e999)', ('numbers are from',)),
        ("label_names={'a': [1e999]}", ('numbers are from',)),
        ('nothing=-1e999', ('numbers are from',)),
        ("scale=('\\d', 1)", ('2 values',)),
        ('lr=1if 2else 3', ('a number',)),
    ],
)
def test_wrong_type(argument, words):
    script_globals = variables()
    with pytest.raises(UserError) as error:
        read(script_globals, [argument])
    text = str(error.value)
    assert argument in text and '\n' not in text
    assert all(word in text for word in words)
    assert script_globals == variables()


@pytest.mark.parametrize('argument', ['n_epoch=1' + 400 * '0', 'lr=1' + 5000 * '0', 'n_epoch=' + '-' * 10_000 + '1'])
def test_a_wrong_value_that_is_long_is_shown_in_part(argument):
    with pytest.raises(UserError) as error:
        read(variables(), [argument])
    assert str(error.value).startswith(argument[:100]) and len(str(error.value)) < 300


@pytest.mark.parametrize(
    ('empty', 'example'), [((), 'runs=(360, 640).'), ([], "runs=['a', 'b']."), ({}, "runs={'a': 'b'}.")]
)
def test_an_empty_value_is_no_example(empty, example):
    with pytest.raises(UserError) as error:
        read({'__file__': 'script.py', 'runs': empty}, ['runs=x'])
    assert str(error.value).endswith(f', like {example}')


def test_unknown_name_lists_the_valid_ones_and_guesses():
    with pytest.raises(UserError, match=r"unknown variable 'n_epochs'\. Did you mean n_epoch\?") as error:
        read(variables(), ['n_epochs=3'])
    for name in ('amp', 'n_epoch', 'lr', 'video_in', 'img_hw', 'label_names', 'nothing'):
        assert name in str(error.value).split('Valid names:')[1]
    for name in ('CONSTANT', '_private', 'function'):
        assert name not in str(error.value)


@pytest.mark.parametrize('argument', ['CONSTANT=2', '_private=2', 'function=2', '__file__=x', '=3', 'zzzzz=1'])
def test_what_is_no_variable_cannot_be_set(argument):
    script_globals = variables()
    with pytest.raises(UserError, match='unknown variable'):
        read(script_globals, [argument])
    assert script_globals == variables()


@pytest.mark.parametrize('argument', ['lr', 'frames/', '--verbose', ''])
def test_not_of_the_form_name_value(argument):
    with pytest.raises(UserError, match='is not of the form name=value') as error:
        read(variables(), [argument])
    assert repr(argument) in str(error.value)


@pytest.mark.parametrize('flag', ['-h', '--help'])
def test_help_shows_variables_with_their_comments(tmp_path, capsys, flag):
    file = tmp_path / 'script.py'
    file.write_text(SCRIPT, encoding='utf-8')
    script_globals = {'__file__': str(file), '__name__': 'script'}
    exec(compile(SCRIPT, str(file), 'exec'), script_globals)
    with pytest.raises(SystemExit) as ended:
        read(script_globals, [flag])
    assert ended.value.code == 0
    lines = [line.strip() for line in capsys.readouterr().out.splitlines()]
    assert 'Does things to pictures.' in lines
    assert "folder=''  # where the pictures are" in lines
    assert 'img_hw=(360, 640)  # height and width' in lines
    assert "names={'a': 'b'}  # other spellings" in lines
    assert any(line.startswith('lr=0.001') for line in lines)
    assert not any('CONSTANT' in line for line in lines)


@pytest.mark.parametrize('name', ['_train.py', '_test.py', '_test_with_video.py'])
def test_every_variable_of_the_scripts_has_a_comment(name, capsys):
    # main() is not run: this is what --help prints.
    file = PROJECT / name
    script_globals = {'__file__': str(file), '__name__': 'script'}
    exec(compile(file.read_text(encoding='utf-8'), str(file), 'exec'), script_globals)
    with pytest.raises(SystemExit):
        read(script_globals, ['--help'])
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith('  ')]
    assert len(lines) > 8
    assert [line for line in lines if not line.partition('#')[2].strip()] == []


def absolute(script, path):
    return read({'__file__': str(script)}, []).path(path)


def test_path(tmp_path, monkeypatch):
    script = tmp_path / 'project' / 'script.py'
    monkeypatch.chdir(tmp_path)
    assert absolute(script, 'data/x') == (tmp_path / 'project' / 'data' / 'x').resolve()
    assert absolute(script, '../x') == (tmp_path / 'x').resolve()
    assert absolute(script, '.') == script.parent.resolve()
    assert absolute(script, tmp_path / 'elsewhere') == tmp_path / 'elsewhere'
    assert '~' not in str(absolute(script, '~/x'))


@pytest.mark.parametrize(
    'path',
    ['~nobody-of-this-name/x', '花' * 86, 'a' * 5000, 'x/' * 3000, 'a\0b', '\ud800', '~\0', '/' + 'a' * 300 + '/b'],
)
def test_a_place_where_no_file_can_be_is_one_line(tmp_path, path):
    with pytest.raises(UserError) as error:
        absolute(tmp_path / 'script.py', path)
    assert str(error.value).startswith(path) and '\n' not in str(error.value)


def test_an_empty_name_is_no_place(tmp_path):
    """Not the project's folder, which a variable that the shell does not know would fill with outputs."""
    settings = read({'__file__': str(tmp_path / 'script.py'), 'frames_out': 'frames', 'device': ''}, ['frames_out='])
    with pytest.raises(UserError, match=r"^frames_out='': it names no file or folder"):
        settings.path(settings.frames_out)


def test_names_that_are_possible(tmp_path):
    for name in ('花' * 85, 'a' * 255, '\udcff', 'new\nline', ' ', 'a~b'):
        assert absolute(tmp_path / 'script.py', f'./{name}') == tmp_path / name


def start(tmp_path, *arguments):
    file = tmp_path / 'folder of 脚本' / 'script.py'
    file.parent.mkdir()
    file.write_text(SCRIPT, encoding='utf-8')
    environment = {'PYTHONPATH': str(PROJECT), 'PYTHONIOENCODING': 'ascii', 'SYSTEMROOT': 'C:\\Windows'}
    return subprocess.run(
        [sys.executable, str(file), *arguments], cwd=tmp_path, env=environment, capture_output=True, encoding='ascii'
    )


@pytest.mark.parametrize(
    ('argument', 'status', 'line'),
    [
        ('folder=none', 2, 'Error: none: there is no such folder.'),
        ('fodler=x', 2, "Error: unknown variable 'fodler'. Did you mean folder?"),
        ('img_hw=花', 2, 'Error: img_hw=?: img_hw takes values in brackets, like img_hw=('),
        ('folder=ctrl-c', 130, 'Stopped.'),
    ],
)
def test_run_ends_in_one_line(tmp_path, argument, status, line):
    # The streams are ASCII here, as on an old console: names that cannot be shown must not end a run.
    result = start(tmp_path, argument)
    assert result.returncode == status
    assert result.stderr.startswith(line)
    assert len(result.stderr.splitlines()) == 1


def test_ctrl_c_when_all_is_done_says_nothing(tmp_path):
    result = start(tmp_path, 'folder=late')
    assert (result.returncode, result.stderr) == (0, '')


def test_run_goes_through(tmp_path):
    result = start(tmp_path, 'folder=花 1', 'img_hw=1,2')
    assert (result.returncode, result.stderr) == (0, '')
    assert result.stdout.startswith("'? 1' (1, 2) ")


@pytest.mark.parametrize(
    ('error', 'line'),
    [
        (PermissionError(13, 'Permission denied', 'a/花.jpg'), 'Error: a/花.jpg: Permission denied.'),
        (OSError(28, 'No space left on device', '\x1b[31m.pt'), r'Error: \x1b[31m.pt: No space left on device.'),
        (MemoryError(), 'Error: There is not enough memory.'),
        (ModuleNotFoundError('', name='numpy.core'), f'Error: This needs numpy, which {sys.executable} does not have.'),
        (ModuleNotFoundError('', name='torch'), f'Error: This needs PyTorch, which {sys.executable} does not have.'),
        (
            UserError('a.xml, line 3: \x1b]0;x\x07 and \u202e.\nsecond'),
            r'Error: a.xml, line 3: \x1b]0;x\x07 and \u202e.',
        ),
    ],
)
def test_what_is_no_bug_is_one_line(capsys, error, line):
    def main(arguments):
        raise error

    with pytest.raises(SystemExit) as ended:
        run(main, [])
    assert ended.value.code == 2
    assert capsys.readouterr().err.startswith(line)


NO_SUCH_PART = ModuleNotFoundError('', name='konohana.none')


@pytest.mark.parametrize('bug', [KeyError('x'), OSError(5, 'no file named'), RuntimeError('x'), NO_SUCH_PART])
def test_a_bug_keeps_its_traceback(bug):
    def main(arguments):
        raise bug

    with pytest.raises(type(bug)):
        run(main, [])


@pytest.mark.parametrize('text', ['木花 咲耶', 'Zoë', '\u3000 a\u200db', '👩\u200d🎨', 'עברית'])
def test_printable_leaves_names_alone(text):
    assert printable(text) == text


def test_printable_shows_what_controls_a_terminal():
    assert printable('a\x1b[2J\r\n\t\x9b\u202e\u2066\u200f\u2028\udcff\0') == (
        'a\\x1b[2J\\r\\n\\t\\x9b\\u202e\\u2066\\u200f\\u2028\\udcff\\x00'
    )


POSIX = {'LC_ALL': 'C', 'PYTHONUTF8': '0', 'PYTHONCOERCECLOCALE': '0', 'PYTHONPATH': str(PROJECT), 'PATH': os.defpath}
NAMES_SCRIPT = """
from konohana.settings import read, run

folder = ''  # of the file

def main(arguments=None):
    settings = read(globals(), arguments)
    file = settings.path(settings.folder) / '花.txt'
    file.write_text('木', encoding='utf-8')
    print(file.name, file.read_text(encoding='utf-8'))

if __name__ == '__main__':
    run(main)
"""


def start_names(tmp_path, *command, **environment):
    (tmp_path / 'script.py').write_text(NAMES_SCRIPT, encoding='utf-8')
    (tmp_path / '木').mkdir()
    command = [*command, sys.executable, tmp_path / 'script.py', f'folder={tmp_path / "木"}']
    return subprocess.run(command, env={**POSIX, **environment}, capture_output=True, encoding='utf-8')


@pytest.mark.skipif(os.name == 'nt', reason='Windows has no such locale')
@pytest.mark.parametrize(
    ('environment', 'printed'),
    [({}, '花.txt 木'), ({'LC_ALL': 'POSIX'}, '花.txt 木'), ({'PYTHONIOENCODING': 'ascii'}, '?.txt ?')],
)
def test_chinese_names_in_a_posix_locale(tmp_path, environment, printed):
    (tmp_path / 'script.py').write_text(NAMES_SCRIPT, encoding='utf-8')
    (tmp_path / '木').mkdir()
    command = [sys.executable, tmp_path / 'script.py', f'folder={tmp_path / "木"}']
    result = subprocess.run(command, env={**POSIX, **environment}, capture_output=True, encoding='utf-8')
    assert (result.returncode, result.stderr, result.stdout) == (0, '', printed + '\n')
    assert (tmp_path / '木' / '花.txt').read_text(encoding='utf-8') == '木'


def test_a_user_without_name_and_home(monkeypatch, capsys, tmp_path):
    monkeypatch.setattr(tempfile, 'tempdir', str(tmp_path))
    for name in ('HOME', 'USER', 'LOGNAME', 'LNAME', 'USERNAME', 'USERPROFILE', 'HOMEDRIVE'):
        monkeypatch.delenv(name, raising=False)
    if os.name != 'nt':
        pwd = pytest.importorskip('pwd')
        monkeypatch.setattr(pwd, 'getpwuid', lambda number: {}[number])
    run(lambda arguments: print(Path.home(), getpass.getuser()), [])
    home, user = capsys.readouterr().out.split()
    assert Path(home).parent == tmp_path and Path(home).is_dir() and user


def test_error_from_a_loader_process_is_one_line(capsys):
    class Broken(torch.utils.data.Dataset):
        def __len__(self):
            return 2

        def __getitem__(self, index):
            raise UserError('frame.jpg: damaged. Copy it again.')

    def main():
        # What DataLoader does with an error in one of its processes.
        wrapper = torch._utils.ExceptionWrapper
        try:
            Broken()[0]
        except UserError:
            wrapped = wrapper(where='in DataLoader worker process 0')
        wrapped.reraise()

    with pytest.raises(SystemExit) as ended:
        run(main)
    assert ended.value.code == 2
    assert capsys.readouterr().err == 'Error: frame.jpg: damaged. Copy it again.\n'


def test_relative_paths_start_at_the_scripts_folder_or_at_the_one_it_names(tmp_path):
    script_globals = {**variables(), '__file__': str(tmp_path / 'tools' / 'script.py')}
    settings = read(script_globals, ['n_epoch=3'])
    assert settings.path('a/b') == tmp_path / 'tools' / 'a' / 'b' and settings.path(tmp_path) == tmp_path
    assert read(script_globals, [], folder=tmp_path).path('a') == tmp_path / 'a'
    assert vars(settings).keys() == {name for name in variables() if name.islower() and name[0] != '_'} - {'function'}


@pytest.mark.parametrize(
    'values',
    [
        {'text': ''},
        {'text': '"quoted"', 'name': "it's"},
        {'text': '花 = \n "a" \'b\' \\n', 'name': 'True'},
        {'numbers': (3, 4), 'many': ['a', "b'", '"c"'], 'spell': {'柚': 'Yuzu "Y"', 'a': "'"}},
        {'yes': True, 'number': -2.5e-7, 'free': None, 'whole': 12},
        {'free': 'auto'},
    ],
)
def test_settings_given_to_another_process_are_the_same(values):
    script = {
        **{'__file__': __file__, 'text': 'x', 'name': '', 'numbers': (1, 2), 'many': [], 'spell': {}, 'yes': False},
        **{'number': 1.0, 'free': None, 'whole': 1},
    }
    settings = Settings(**{**{k: v for k, v in script.items() if k != '__file__'}, **values})
    assert vars(read(script, as_arguments(settings))) == vars(settings)
    assert read(script, as_arguments(settings, text='changed')).text == 'changed'


@pytest.mark.parametrize('values', [[], [0], [2, -1], [1.5], [True]])
def test_lists_of_whole_numbers(values):
    require_whole(Settings(seeds=[1, 3], more=(1,)), seeds=1, more=1)
    with pytest.raises(UserError, match=re.escape(f'seeds={values}: it takes whole numbers from 1 up')):
        require_whole(Settings(seeds=values), seeds=1)
