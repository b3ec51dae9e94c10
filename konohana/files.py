"""Writing files whole or not at all."""

import os
from pathlib import Path

from konohana.errors import UserError


def write_text(path, text):
    """A small text file, written like `save` does."""
    write_bytes(path, text.encode())


def write_bytes(path, data):
    """A file of any kind, written like `save` does."""
    temporary = Path(path).with_name(Path(path).name + '.tmp')
    try:
        temporary.parent.mkdir(parents=True, exist_ok=True)
        temporary.write_bytes(data)
        os.replace(temporary, path)
    except OSError as error:
        raise UserError(f'{path}: cannot be written ({error}). Is there space and permission?') from None
