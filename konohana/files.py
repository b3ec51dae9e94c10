"""Writing files: whole or not at all, and never over a file that this program did not write. Reading them safely.

In each folder of outputs this program keeps `.konohana_outputs`, a list of what it has written there: name, size, time
of the last change and, for some, the settings it was made with. A file that is on the list and unchanged may be written
again; any other file stays.
"""

import contextlib
import functools
import json
import os
import re
import stat
import unicodedata
import uuid
from pathlib import Path

from konohana.errors import UserError

LIST_NAME = '.konohana_outputs'  # one JSON line for each file: [name, size in bytes, time in ns, maybe settings]
CLOCK = 2_000_000_000  # ns; some file systems (FAT, network drives) keep times no finer than 2 s
SPARE_LINES = 1000  # lines of the list that later lines replace, before it is written again without them


def shipped_folder():
    """The folder of the shipped weights: inside the package where pip installed it, beside the package in a clone."""
    package = Path(__file__).resolve().parent
    inside = package / 'weights'
    return inside if inside.is_dir() else package.parent / 'weights'


def cache_folder():
    """The user's folder for what this program can make again."""
    return Path(os.environ.get('XDG_CACHE_HOME') or '~/.cache').expanduser() / 'konohana'


@contextlib.contextmanager
def replacing(path, remember=False):
    """Give a temporary path beside `path` to write to; rename it to `path` at the end, remove it after an exception.

    The file is the old one or the new one, never half of one. Missing folders are made.

    Args:
        path: the file.
        remember: put the file onto the list of outputs, see `claim`.

    Yields:
        the temporary path. Its name says nothing about `path`, not even the ending.

    Raises:
        UserError: `path` cannot be written: no space, no permission, a folder, an impossible name. An OSError of the
            block counts as such; other exceptions of the block go through.
    """
    path = Path(path)
    temporary = path.with_name(f'.{uuid.uuid4().hex[:12]}.tmp')  # short: `path` may be as long as names can be
    try:
        _refuse_special(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        yield temporary
        with temporary.open('rb+') as file:
            os.fsync(file.fileno())
        os.replace(temporary, path)
        if remember:
            written(path)
    except OSError as error:
        raise UserError(
            f'{path}: cannot be written ({reason(error)}). Check the folder, its permissions and the free space.'
        ) from None
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)


def write_bytes(path, data, remember=False):
    """Write a file of any kind; see `replacing`."""
    with replacing(path, remember) as temporary:
        temporary.write_bytes(data)


def write_text(path, text, remember=False):
    """Write a text file in UTF-8, with line ends as they are in `text`; see `replacing`."""
    write_bytes(path, text.encode(errors='surrogateescape'), remember)


def read_bytes(path, limit=1 << 31, what='file'):
    """The content of a file.

    Args:
        path: the file.
        limit: bytes; more than it is not read.
        what: what it is, for messages.

    Raises:
        UserError: it is missing, a folder, a pipe, a socket or a device, larger than `limit` bytes, or not readable.
    """
    path = Path(path)
    with reading(path, what):
        check_regular(path, what)
        if path.stat().st_size > limit:
            raise UserError(f'{path}: larger than {limit / 1e6:.0f} MB, which no {what} is.')
        return path.read_bytes()


def read_text(path, limit=1 << 31):
    """The content of a text file in UTF-8, with or without byte order mark; see `read_bytes`.

    Raises:
        UserError: see `read_bytes`; another encoding.
    """
    try:
        return read_bytes(path, limit).decode('utf-8-sig')
    except UnicodeDecodeError:
        raise UserError(f'{path}: not UTF-8 text. Save it as UTF-8.') from None


def check_regular(path, what='file'):
    """UserError where `path` is a folder, a pipe, a socket or a device: to open it could wait for ever.

    Raises:
        UserError: see above; or no file can have this name.
        OSError: it is missing.
    """
    try:
        mode = Path(path).stat().st_mode
    except ValueError as error:
        raise UserError(f'{path}: no file can have this name ({error}).') from None
    if not stat.S_ISREG(mode):
        kind = 'a folder' if stat.S_ISDIR(mode) else 'a pipe, socket or device'
        raise UserError(f'{path}: {kind}, not a {what}. Name the {what} itself.')


@contextlib.contextmanager
def reading(path, what='file'):
    """The edge of a reader: what goes wrong in the block becomes a UserError of one line that names the file."""
    try:
        yield
    except (UserError, MemoryError):
        raise
    except FileNotFoundError as error:
        raise UserError(f'{error.filename or path}: there is no such {what}.') from None
    except OSError as error:
        raise UserError(f'{error.filename or path}: cannot be read ({reason(error)}).') from None
    except Exception as error:
        raise UserError(f'{path}: cannot be read ({reason(error)}). Copy or export it again.') from None


def entries(folder):
    """What is in a folder, without the ._ files that macOS puts beside others on disks that are not its own."""
    return [path for path in Path(folder).iterdir() if not path.name.startswith('._')]


def in_unicode(name):
    """A file's name as text that UTF-8 can hold: unpacked on another system, names may have bytes that are none."""
    return name.encode(errors='surrogateescape').decode(errors='replace')


def beside(path, more):
    """The path of what belongs to a file or a folder: beside it, its name with `more` behind it.

    Raises:
        UserError: `path` is the top of a disk, which has no name and nothing beside it.
    """
    if not path.name:
        raise UserError(f'{path}: this is a whole disk. Choose a folder in it.')
    return path.with_name(path.name + more)


def same_name(name):
    """A name in the form in which file systems that know no case, or one Unicode form only, compare it."""
    return unicodedata.normalize('NFC', unicodedata.normalize('NFC', name).casefold())


def in_order(path):
    """Sort key of a path or a name that puts episode 10 after episode 9."""
    parts = re.split(r'(\d+)', str(path))
    return [int(part) if i % 2 else part.casefold() for i, part in enumerate(parts)]


def reason(error):
    """What an exception says, on one line, as the end of a message that names the file already."""
    text = getattr(error, 'strerror', None) or str(error) or type(error).__name__
    return ' '.join(str(text).split())


def claim(path, inputs=(), overwrite=False, variable='the output'):
    """Check that `path` may be written. Call this before the work starts, so that nothing is done in vain.

    Args:
        path: the file to be written. It need not exist, nor need its folder.
        inputs: files that are read; a folder stands for all files in it.
        overwrite: allow replacing a file that this program did not write. An input is never replaced.
        variable: the name of the user's variable, for the message, like 'video_out'.

    Raises:
        UserError: `path` is an input; it exists, this program did not write it and `overwrite` is False; or it cannot
            be written (a folder, a device, no permission).
    """
    path = Path(path)
    try:
        _refuse_special(path)
        if not os.path.lexists(path):
            _check_folder(path.parent)
            return
        if any(_is_same(path, Path(given)) for given in inputs):
            raise UserError(f'{path}: this file is an input, which is never replaced. Choose another {variable}.')
    except OSError as error:
        raise UserError(f'{path}: cannot be written ({reason(error)}). Choose another {variable}.') from None
    if not overwrite and not written_here(path):
        raise UserError(
            f'{path}: this file exists, and this program did not write it (or it has changed since). '
            f'Choose another {variable}, or set overwrite=True.'
        )


def written_here(path):
    """Whether `path` is still as this program wrote it, with `remember` (see `replacing`)."""
    return _entry(Path(path)) is not None


def made_with(path):
    """The settings that `written` was given for `path`; None for none, or if the file has changed since."""
    entry = _entry(Path(path))
    return entry and entry[2]


def _entry(path):
    """(size, time, settings) of an unchanged file on its folder's list; None for any other."""
    try:
        now = path.lstat()
        entry = _listed(path.parent / LIST_NAME)[path.name]
    except (OSError, KeyError):
        return None
    return entry if entry[0] == now.st_size and abs(entry[1] - now.st_mtime_ns) <= CLOCK else None


def written(path, settings=None):
    """Add `path` to the list of its folder; `replacing` with `remember` does so by itself.

    settings: dict that JSON can hold, what the file was made with, for `made_with`.

    Lines are appended, so that several programs can write at once; the last line of a name counts. Without a list the
    file is written all the same: at worst a later run refuses to replace it.
    """
    now = path.stat()
    with contextlib.suppress(OSError):
        with (path.parent / LIST_NAME).open('ab') as file:
            file.write(_line(path.name, now.st_size, now.st_mtime_ns, settings))


def _line(name, size, time, settings):
    # The line end comes first too: a line that a crash cut off spoils only itself.
    return f'\n{json.dumps([name, size, time, *([settings] if settings else [])])}\n'.encode()


def _listed(file):
    """The list of outputs in `file`: {name: (size, time, settings or None)}. What is not a list counts as empty."""
    if not file.is_file():
        return {}
    now = file.stat()
    return _parsed(file, now.st_size, now.st_mtime_ns)


@functools.lru_cache(maxsize=16)
def _parsed(file, _size, _time):
    """`_listed`, read again only where size or time have changed: thousands of files of one folder are claimed."""
    found = {}
    lines = [line for line in file.read_bytes().splitlines() if line]
    for line in lines:
        try:
            name, size, time, *settings = json.loads(line)
            found[name] = int(size), int(time), settings[0] if settings and isinstance(settings[0], dict) else None
        except (ValueError, TypeError, OverflowError, RecursionError):
            continue  # damaged
    if len(lines) > len(found) + SPARE_LINES:
        with contextlib.suppress(UserError):
            write_bytes(file, b''.join(_line(name, *values) for name, values in found.items()))
    return found


def _refuse_special(path):
    """Raise UserError where `path` is there and no file: a folder, or /dev/null, which renaming would replace."""
    try:
        mode = path.stat().st_mode
    except (FileNotFoundError, NotADirectoryError):
        return
    except ValueError as error:
        raise UserError(f'{path}: no file can have this name ({error}).') from None
    if not stat.S_ISREG(mode):
        what = 'a folder' if stat.S_ISDIR(mode) else 'a device or a pipe'
        raise UserError(f'{path}: cannot be written, it is {what}. Give the name of a file.')


def _check_folder(folder):
    """Raise OSError where no file can be made in `folder`, which may itself have to be made."""
    while not os.path.lexists(folder):
        folder = folder.parent
    if not folder.is_dir():
        raise NotADirectoryError(None, f'{folder} is not a folder')
    if not os.access(folder, os.W_OK | os.X_OK):
        raise PermissionError(None, f'no permission to write in {folder}')


def _is_same(path, given):
    """Whether the existing `path` is the input `given`, or in the folder `given`."""
    if not path.exists() or not given.exists():
        return False
    return given.samefile(path) or (given.is_dir() and given.resolve() in path.resolve().parents)
