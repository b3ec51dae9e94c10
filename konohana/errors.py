"""What goes wrong through no fault of this program, and text that is safe to print."""

import contextlib
import importlib.util
import unicodedata


class UserError(Exception):
    """A user's mistake. Scripts print its text and exit with status 2; it never shows a traceback.

    The text names the file (and line or frame), what is wrong and what to do.
    """


@contextlib.contextmanager
def noting(problems, path):
    """Add a UserError of the block to the list `problems`, as (path, error), and go on after the block."""
    try:
        yield
    except UserError as error:
        problems.append((path, error))


def printable(text):
    """`text` with each control character as an escape like \\x1b: names come from files that others may have made.

    Raw, they would move the cursor, colour the terminal or turn the direction of writing. Letters of any script,
    spaces and emoji stay.
    """
    return ''.join(c.encode('unicode_escape').decode() if _controls(c) else c for c in str(text))


def count(number, what, several=None):
    """`number` and what is counted, as people say it: '1 frame', '2 frames'; `several` where the plural has no s."""
    return f'{number} {what if number == 1 else several or what + "s"}'


def _controls(c):
    # Cc: control characters, Cs: lone surrogates, Zl and Zp: line ends of Unicode; then the marks of writing direction.
    return (
        unicodedata.category(c) in ('Cc', 'Cs', 'Zl', 'Zp')
        or unicodedata.bidirectional(c) in ('LRE', 'RLE', 'LRO', 'RLO', 'PDF', 'LRI', 'RLI', 'FSI', 'PDI')
        or c in '\u061c\u200e\u200f'
    )


def installed(name):
    """Whether a package can be imported, without importing it."""
    try:
        return importlib.util.find_spec(name) is not None
    except (ValueError, ImportError):  # it is known not to be there
        return False
