"""Writing files: whole or not at all, and never over a file that this program did not write.

Beside its outputs this program keeps `.konohana_outputs`, a list of what it has written there: name, size and time of
the last change. A file that is on the list, unchanged, may be written anew; any other stays.
"""

import contextlib
import json
import os
import uuid
from pathlib import Path

from konohana.errors import UserError

LIST_NAME = '.konohana_outputs'  # one JSON line for each file written: [name, size in bytes, time in ns]


@contextlib.contextmanager
def replacing(path, remember=False):
    """A temporary path beside `path` to write to; it is renamed to `path` when the block ends, removed when it fails.

    So the file is the old one or the new one, never half. Missing folders are made.

    Args:
        path: the file. remember: whether it goes onto the list of outputs, see `claim`.

    Raises:
        UserError: the file cannot be written (no space, no permission). Any other exception of the block goes through.
    """
    path = Path(path)
    temporary = path.with_name(f'.{uuid.uuid4().hex[:12]}.tmp')
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield temporary
        with temporary.open('rb+') as file:
            os.fsync(file.fileno())
        os.replace(temporary, path)
        if remember:
            _remember(path)
    except OSError as error:
        reason = error.strerror or error
        raise UserError(f'{path}: cannot be written ({reason}). Is there space and permission?') from None
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)


def write_bytes(path, data, remember=False):
    """Write a file of any kind; see `replacing`."""
    with replacing(path, remember) as temporary:
        temporary.write_bytes(data)


def write_text(path, text, remember=False):
    """Write a text file in UTF-8; see `replacing`."""
    write_bytes(path, text.encode(), remember)


def claim(path, inputs=(), overwrite=False, variable='the output'):
    """Make sure that `path` may be written: call it before the work starts.

    Args:
        path: the file to be written.
        inputs: files that are read; a folder stands for all that is in it.
        overwrite: whether a file that this program did not write may be replaced.
        variable: what the user sets, for the message, like 'video_out'.

    Raises:
        UserError: `path` is an input; or it is there, this program did not write it, and `overwrite` is False.
    """
    path = Path(path)
    for given in map(Path, inputs):
        if path.exists() and given.exists() and (given.samefile(path) or _inside(path, given)):
            raise UserError(f'{path}: it is an input, which is never written over. Choose another {variable}.')
    if overwrite or not path.exists() or written_here(path):
        return
    raise UserError(
        f'{path}: there is such a file already, and this program did not write it. Choose another {variable}, or '
        'overwrite=True.'
    )


def written_here(path):
    """Whether `path` is as this program has written it (see `replacing`'s `remember`)."""
    path = Path(path)
    try:
        now = path.stat()
        lines = (path.parent / LIST_NAME).read_text(encoding='utf-8').splitlines()
    except (OSError, ValueError):
        return False
    return json.dumps([path.name, now.st_size, now.st_mtime_ns]) in lines


def _remember(path):
    now = path.stat()
    with (path.parent / LIST_NAME).open('a', encoding='utf-8') as file:
        file.write(json.dumps([path.name, now.st_size, now.st_mtime_ns]) + '\n')


def _inside(path, folder):
    return folder.is_dir() and folder.resolve() in path.resolve().parents
