"""The variables at the top of a script, and `name=value` on the command line over them.

The idea is nanoGPT's configurator (https://github.com/karpathy/nanoGPT): a script's settings are plain global
variables, so the list of settings is the script's own head. Here values are checked against the variable's type.
"""

import ast
import atexit
import contextlib
import difflib
import getpass
import io
import os
import signal
import sys
import tempfile
import time
import tokenize
import types
import warnings
from pathlib import Path

from konohana import interrupts, worker
from konohana.errors import UserError, printable

# What requirements.txt has beyond requirements-light.txt: module -> its name for people. Only what needs it misses it.
NOT_LIGHT = {
    **dict.fromkeys(('torch', 'torchvision'), 'PyTorch'),
    **{'scipy': 'SciPy', 'filelock': 'filelock', 'psutil': 'psutil', 'tensorboard': 'TensorBoard', 'onnx': 'onnx'},
}
OWN = ('konohana', 'tools', 'benchmarks', '_train', '_test')  # of these a module that is missing is a bug


def _variables(script_globals):
    """The settings among a script's globals: lower-case public names bound to plain values."""
    plain = (bool, int, float, str, tuple, list, dict, type(None))
    return {
        name: value
        for name, value in script_globals.items()
        if not name.startswith('_') and name.islower() and isinstance(value, plain)
    }


def _comments(script_file):
    """{variable: comment at the end of its line}, read from the script's source."""
    comments = {}
    name = None
    source = Path(script_file).read_text(encoding='utf-8')
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type == tokenize.NAME and token.start[1] == 0:
            name = token.string
        elif token.type == tokenize.COMMENT and name and token.start[1] > 0:
            comments.setdefault(name, token.string.lstrip('# '))
        elif token.type == tokenize.NEWLINE:
            name = None
    return comments


_TYPE_NAMES = {
    bool: 'True or False',
    int: 'a whole number',
    float: 'a number',
    tuple: 'values in brackets',
    list: 'values in brackets',
    dict: 'pairs in braces',
}
# What to show where the variable's own value is empty, and so is no example.
_EXAMPLES = {tuple: (360, 640), list: ['a', 'b'], dict: {'a': 'b'}}
MAX_NUMBER = 2**63 - 1  # what fits into a tensor


def _parse(name, text, default):
    """Turn `text` into a value of the type of `default`; raises UserError when it does not fit."""
    if isinstance(default, str):
        # Taken as it stands: 2024 and None are names of files too, and in C:\new no \n is meant. cmd.exe leaves quotes.
        quoted = len(text) >= 2 and text[0] == text[-1] and text[0] in '"\''
        return text[1:-1] if quoted else text
    value = _literal(text)
    shown = f'{name}={text}' if len(text) <= 100 else f'{name}={text[:100]} ...'
    if not _in_range(value):
        raise UserError(f'{shown}: numbers are from -{MAX_NUMBER} to {MAX_NUMBER}.')
    if default is None:
        return value
    value = _converted(value, type(default))
    if type(value) is not type(default):
        example = default or _EXAMPLES.get(type(default), default)
        raise UserError(f'{shown}: {name} takes {_TYPE_NAMES[type(default)]}, like {name}={example!r}.')
    # A tuple has a value for each of its places, a list any number of them: texts, where its own value is empty.
    example = default or _EXAMPLES[list] if isinstance(default, list) else default
    places = example[:1] * len(value) if isinstance(default, list) else example
    if example and isinstance(value, (tuple, list)) and not _alike(value, places):
        number = 'such' if isinstance(default, list) else len(example)
        raise UserError(f'{shown}: {name} takes {number} values, like {name}={example!r}.')
    return value


def _literal(text):
    """The Python literal in `text`; `text` itself if it is none."""
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')  # Python warns of 1if and "\\d"
        try:
            return ast.literal_eval(text)
        except (ValueError, SyntaxError, MemoryError, RecursionError, TypeError):
            return text


def _in_range(value):
    """Whether all numbers in `value` are finite and no larger than `MAX_NUMBER`."""
    if isinstance(value, dict):
        return all(map(_in_range, value)) and all(map(_in_range, value.values()))
    if isinstance(value, (tuple, list, set)):
        return all(map(_in_range, value))
    return not isinstance(value, (int, float)) or abs(value) <= MAX_NUMBER


def _converted(value, kind):
    """`value` as `kind` where that loses nothing: 1 -> 1.0, 'true' -> True, [1, 2] -> (1, 2)."""
    if kind is float and type(value) is int:
        return float(value)
    if kind is bool and isinstance(value, str) and value.lower() in ('true', 'false'):
        return value.lower() == 'true'
    if kind in (tuple, list) and isinstance(value, (tuple, list)):
        return kind(value)
    return value


def _alike(values, examples):
    """Whether `values` has as many values as `examples`, texts and numbers at the same places."""
    return len(values) == len(examples) and all(
        isinstance(v, str) if isinstance(e, str) else isinstance(v, (int, float)) and not isinstance(v, bool)
        for v, e in zip(values, examples, strict=True)
    )


class Settings(types.SimpleNamespace):
    """A script's variables as attributes: `settings.batch_size`. `vars(settings)` is the dict of all of them."""

    __slots__ = ('_filled', '_folder')  # so they are not in vars(settings)

    def path(self, path):
        """`path` as an absolute Path; a relative one starts at the script's folder, so scripts run from anywhere.

        Raises:
            UserError: no file can be there: an unknown `~name`, a name too long for a file system, a closed folder; or
                it is empty, as an unset variable of the shell is: the script's folder is '.'.
        """
        if not str(path):
            empty = [name for name in self._filled if getattr(self, name) == '']
            raise UserError(f"{', '.join(empty) or 'A path'}='': it names no file or folder. The script's own is '.'.")
        return _absolute(path, self._folder)


def read(script_globals, arguments=None, aliases=None, folder=None):
    """A script's variables, with `name=value` arguments over them. The script's globals stay as they are.

    Args:
        script_globals: the script's `globals()`. Every lower-case public name bound to a plain value
            (bool, int, float, str, tuple, list, dict, None) counts as a variable and may be set.
        arguments: list of `name=value` texts; those of the command line when None. `-h` or `--help` prints the
            variables.
        aliases: dict of former name -> variable: names that variables had in earlier versions, still taken.
        folder: folder at which relative paths start, see `Settings.path`; None for the script's.

    Returns:
        `Settings`.

    Raises:
        UserError: an unknown name (the valid ones are listed) or a value of the wrong type.
        SystemExit: after the help.
    """
    variables = _variables(script_globals)
    values = dict(variables)
    for argument in sys.argv[1:] if arguments is None else map(str, arguments):
        if argument in ('-h', '--help'):
            _print_help(script_globals, variables)
            raise SystemExit(0)
        name, equals, text = argument.partition('=')
        name = name.lstrip('-')
        name = (aliases or {}).get(name, name)
        if not equals or name not in variables:
            raise UserError(_unknown(argument, name, variables))
        values[name] = _parse(name, text, variables[name])
    settings = Settings(**values)
    settings._filled = [name for name, value in variables.items() if value]
    settings._folder = Path(script_globals['__file__']).parent if folder is None else folder
    return settings


def as_arguments(settings, **changes):
    """`name=value` texts from which `read` makes the same settings, with `changes` to some, in another process."""
    values = {**vars(settings), **changes}
    return [f'{name}="{value}"' if isinstance(value, str) else f'{name}={value!r}' for name, value in values.items()]


def _print_help(script_globals, variables):
    comments = _comments(script_globals['__file__'])
    print(script_globals.get('__doc__') or '')
    for name, value in variables.items():
        print(f'  {name}={value!r}  # {comments.get(name, "")}')


def _unknown(argument, name, variables):
    """What is wrong with an argument that sets no variable, as text."""
    close = difflib.get_close_matches(name, variables, n=1)
    hint = f' Did you mean {close[0]}?' if close else ''
    what = (
        f'unknown variable {name[:100]!r}' if '=' in argument else f'{argument[:100]!r} is not of the form name=value'
    )
    return f'{what}.{hint} Valid names: {", ".join(variables)}.'


def require(settings, **ranges):
    """Check numbers: `require(settings, batch_size=(1, None), flip=(0, 1))`, ends included, None for no end.

    Raises:
        UserError: naming the first variable that is outside its range.
    """
    for name, (low, high) in ranges.items():
        value = getattr(settings, name)
        # Written so that nan, which compares with nothing, is refused.
        if not (value >= low and (high is None or value <= high)):
            upper = 'up' if high is None else f'to {high}'
            raise UserError(f'{name}={value}: it must be a number from {low} {upper}.')


def require_whole(settings, **lowest):
    """Check lists: `require_whole(settings, seeds=0)`: one number or more, each of them whole and no lower than this.

    Raises:
        UserError: naming the first variable that is something else.
    """
    for name, low in lowest.items():
        values = getattr(settings, name)
        if not values or not all(type(value) is int and value >= low for value in values):
            raise UserError(f'{name}={values}: it takes whole numbers from {low} up, like [{low}, {low + 1}].')


def require_one_of(settings, **choices):
    """Check texts: `require_one_of(settings, backend=('auto', 'torch'))`.

    Raises:
        UserError: naming the first variable whose value is no choice.
    """
    for name, known in choices.items():
        value = getattr(settings, name)
        if value not in known:
            raise UserError(f'{name}={value!r:.100}: it is one of {", ".join(map(repr, known))}.')


def _absolute(path, folder):
    """See `Settings.path`; a relative path starts at `folder`."""
    try:
        given = Path(path).expanduser()
        absolute = given if given.is_absolute() else (Path(folder).resolve() / given).resolve()
        os.lstat(absolute)
    except (FileNotFoundError, NotADirectoryError):
        pass  # it may be to be made; else who reads it says so
    except OSError as error:
        raise UserError(f'{path}: it cannot be reached ({error.strerror}). Choose another place.') from None
    except RuntimeError:
        raise UserError(f'{path}: there is no such user, or no home folder. Write the path without ~.') from None
    except ValueError as error:
        raise UserError(f'{path}: no file can have this name ({error}).') from None
    return absolute


def run(main, arguments=None):
    """Run a script's `main(arguments)`, and turn what ends it into one line and an exit status.

    A UserError is printed to stderr, with exit status 2, and so is what the system says of a file, and a lack of
    memory or of a package. Ctrl-C, SIGTERM and SIGHUP raise KeyboardInterrupt in `main`; what it does not handle
    prints "Stopped.", with status 130. Everything else that `main` raises is a bug and goes through.

    Args:
        main: the script's function, called as `main(arguments)`.
        arguments: list of `name=value` texts; those of the command line when None.

    Raises:
        SystemExit: with the exit status, where it is not 0.
    """
    try:
        with interrupts.raising():
            _prepare(arguments)
            worker.end_with_parent()
            main() if arguments is None else main(arguments)
    except UserError as error:
        # From a process that loads frames the error comes with that process's traceback before it.
        _fail(str(error).rpartition(f'{UserError.__module__}.UserError: ')[2].rstrip())
    except KeyboardInterrupt:
        print('Stopped.', file=sys.stderr)
        raise SystemExit(130) from None
    except BrokenPipeError:
        # Who read the output, like `head`, has had enough. What is still to be printed goes nowhere.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.__stdout__.fileno())
        raise SystemExit(1) from None
    except OSError as error:
        if error.filename is None:
            raise
        _fail(f'{error.filename}: {error.strerror}.')
    except ModuleNotFoundError as error:
        package = (error.name or '').partition('.')[0]
        if package in ('', *OWN):
            raise
        name = NOT_LIGHT.get(package, package)
        other = 'Run the Python of .venv, or: ' if sys.prefix == sys.base_prefix else ''
        _fail(f'This needs {name}, which {sys.executable} does not have. {other}pip install -r requirements.txt')
    except MemoryError:
        _fail('There is not enough memory. Close other programs, or use smaller pictures or a smaller batch_size.')
    finally:
        # All is done. PyTorch takes a while to end, and Ctrl-C would make tracebacks of it: this comes before that.
        atexit.register(signal.signal, signal.SIGINT, signal.SIG_IGN)


def _fail(text):
    """Print an error as one line (or as the lines that it has) and end with status 2."""
    if int(os.environ.get('RANK', 0)):
        # Under torchrun the first process mostly has the same to say; this one is ended before it says it again.
        time.sleep(10)
    print('Error: ' + '\n'.join(printable(line) for line in text.split('\n')), file=sys.stderr)
    raise SystemExit(2) from None


def _prepare(arguments):
    """Make the script independent of how a machine is set up: its console, its locale, its users."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, 'reconfigure'):
            # Windows consoles and redirected output may not be UTF-8: a Chinese name must not end a run.
            stream.reconfigure(errors='replace', line_buffering=True)
    if arguments is None and sys.getfilesystemencoding() != 'utf-8' and not sys.flags.utf8_mode:
        # In such a locale Python cannot open files with Chinese names: it starts again in its UTF-8 mode.
        os.execv(sys.executable, [sys.executable, '-X', 'utf8', *sys.orig_argv[1:]])
    try:
        Path.home()
        getpass.getuser()
    except (RuntimeError, KeyError, OSError):
        _make_home()


def _make_home():
    """Containers run under numbers without a name and a home, and matplotlib, torch.hub and others ask for both."""
    number = os.getuid() if hasattr(os, 'getuid') else 0
    folder = Path(tempfile.gettempdir(), f'konohana-{number}')
    with contextlib.suppress(OSError):
        folder.mkdir(mode=0o700, exist_ok=True)
        if folder.stat().st_uid == number:  # what lies in another user's folder is not to be trusted
            os.environ.setdefault('HOME', str(folder))
    os.environ.setdefault('USER', str(number))
