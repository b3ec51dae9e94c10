"""The variables at the top of a script, and `name=value` on the command line over them.

The idea is nanoGPT's configurator (https://github.com/karpathy/nanoGPT): a script's settings are plain global
variables, so the list of settings is the script's own head. Here values are checked against the variable's type.
"""

import ast
import difflib
import io
import os
import sys
import time
import tokenize
import types
from pathlib import Path

from konohana import interrupts
from konohana.errors import UserError, printable


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


def _parse(name, text, default):
    """Turn `text` into a value of the type of `default`; raises UserError when it does not fit."""
    kind = type(default)
    if kind is str:
        # Taken as it stands: 2024 and None are names of files too, and in C:\new no \n is meant. cmd.exe leaves quotes.
        quoted = len(text) >= 2 and text[0] == text[-1] and text[0] in '"\''
        return text[1:-1] if quoted else text
    try:
        value = ast.literal_eval(text)
    except (ValueError, SyntaxError, MemoryError, RecursionError, TypeError):
        value = text
    if default is None:
        return value
    if kind is float and type(value) is int:
        return float(value)
    if kind is bool and isinstance(value, str) and value.lower() in ('true', 'false'):
        return value.lower() == 'true'
    if kind in (tuple, list) and isinstance(value, (tuple, list)):
        value = kind(value)
        same = all(
            isinstance(v, str) if isinstance(d, str) else isinstance(v, (int, float)) and not isinstance(v, bool)
            for v, d in zip(value, default, strict=False)
        )
        if default and (not same or len(value) != len(default)):
            raise UserError(f'{name}={text}: {name} takes {len(default)} values, like {name}={default!r}.')
        return value
    if type(value) is not kind:
        example = default or _EXAMPLES.get(kind, default)
        raise UserError(f'{name}={text}: {name} takes {_TYPE_NAMES[kind]}, like {name}={example!r}.')
    return value


def override(script_globals, arguments=None):
    """Set a script's variables from `name=value` arguments.

    Args:
        script_globals: the script's `globals()`. Every lower-case public name bound to a plain value
            (bool, int, float, str, tuple, list, dict, None) counts as a variable and may be set.
        arguments: list of `name=value` texts; `sys.argv[1:]` when None. `-h` or `--help` prints the variables.

    Returns:
        dict of all variables and their values after the change.

    Raises:
        UserError: an unknown name (the valid ones are listed) or a value of the wrong type.
    """
    arguments = sys.argv[1:] if arguments is None else arguments
    valid = _variables(script_globals)
    for argument in arguments:
        if argument in ('-h', '--help'):
            comments = _comments(script_globals['__file__'])
            print(script_globals.get('__doc__') or '')
            for name, value in valid.items():
                print(f'  {name}={value!r}  # {comments.get(name, "")}')
            raise SystemExit(0)
        name, equals, text = argument.partition('=')
        name = name.lstrip('-')
        if not equals or name not in valid:
            close = difflib.get_close_matches(name, valid, n=1)
            hint = f' Did you mean {close[0]}?' if close else ''
            what = f'unknown variable {name!r}' if equals else f'{argument!r} is not of the form name=value'
            raise UserError(f'{what}.{hint} Valid names: {", ".join(valid)}.')
        script_globals[name] = _parse(name, text, valid[name])
    return _variables(script_globals)


class Settings(types.SimpleNamespace):
    """A script's variables as attributes: `settings.batch_size`. `vars(settings)` is the dict of all of them."""

    __slots__ = ('_folder',)  # so it is not in vars(settings)

    def path(self, path):
        """`path` as an absolute Path; a relative one starts at the script's folder, so scripts run from anywhere."""
        return resolve(self._folder / 'script', path)


def read(script_globals, arguments=None, aliases=None, folder=None):
    """A script's variables, with `name=value` arguments over them. The script's globals stay as they are.

    Args:
        script_globals, arguments: see `override`.
        aliases: dict of former name -> variable: names that variables had in earlier versions, still taken.
        folder: folder at which relative paths start, see `Settings.path`; None for the script's.

    Returns:
        `Settings`.

    Raises:
        UserError: see `override`.
    """
    arguments = sys.argv[1:] if arguments is None else list(map(str, arguments))
    for i, argument in enumerate(arguments):
        name, equals, text = argument.lstrip('-').partition('=')
        if equals and name in (aliases or {}):
            arguments[i] = f'{aliases[name]}={text}'
    settings = Settings(**override(dict(script_globals), arguments))
    settings._folder = Path(script_globals['__file__']).parent if folder is None else folder
    return settings


def require(settings, **ranges):
    """Check numbers: `require(settings, batch_size=(1, None), flip=(0, 1))`, ends included, None for no end.

    Args:
        settings: `Settings`, or a dict of variables.

    Raises UserError naming the first variable that is outside its range.
    """
    values = settings if isinstance(settings, dict) else vars(settings)
    for name, (low, high) in ranges.items():
        value = values[name]
        # Written so that nan, which compares with nothing, is refused.
        if not (value >= low and (high is None or value <= high)):
            upper = 'up' if high is None else f'to {high}'
            raise UserError(f'{name}={value}: it must be a number from {low} {upper}.')


def resolve(script_file, path):
    """`path` as an absolute Path; a relative one is taken from the script's folder, so scripts run from anywhere."""
    path = Path(path).expanduser()
    return path if path.is_absolute() else (Path(script_file).resolve().parent / path).resolve()


def run(main, arguments=None):
    """Run a script's `main(arguments)`, and turn what ends it into one line and an exit status.

    A UserError is printed to stderr, with exit status 2. Ctrl-C, SIGTERM and SIGHUP raise KeyboardInterrupt in `main`;
    what it does not handle prints "Stopped.", with status 130. Everything else that `main` raises goes through.

    Args:
        main: the script's function, called as `main(arguments)`.
        arguments: list of `name=value` texts; those of the command line when None.

    Raises:
        SystemExit: with the exit status, where it is not 0.
    """
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, 'reconfigure'):
            # Windows consoles and redirected output may not be UTF-8: a Chinese name must not end a run.
            stream.reconfigure(errors='replace', line_buffering=True)
    try:
        with interrupts.raising():
            main() if arguments is None else main(arguments)
    except UserError as error:
        # From a process that loads frames the error comes with that process's traceback before it.
        text = str(error).rpartition(f'{UserError.__module__}.UserError: ')[2].rstrip()
        if int(os.environ.get('RANK', 0)):
            # Under torchrun the first process mostly has the same to say; this one is ended before it says it again.
            time.sleep(10)
        print('Error: ' + '\n'.join(printable(line) for line in text.split('\n')), file=sys.stderr)
        raise SystemExit(2) from None
    except KeyboardInterrupt:
        print('Stopped.', file=sys.stderr)
        raise SystemExit(130) from None
