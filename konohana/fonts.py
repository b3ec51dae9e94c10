"""Fonts that can show a text: matplotlib knows where a system keeps fonts, fontTools which characters a font has."""

import functools
import os
import sys
import unicodedata
from pathlib import Path

import numpy as np
from PIL import ImageFont

from konohana.cast import ROMANISED
from konohana.errors import UserError, installed

# Beginnings of font files, best first: fonts of many scripts, then each system's own CJK fonts, then Latin ones.
_WELL_KNOWN = (
    'notosanscjk/notosanssc/notosansjp/notosanskr/notosanstc/sourcehansans/'
    'msyh/pingfang/hiragino sans gb/stheiti/ヒラギノ角ゴシック/yugoth/meiryo/msgothic/malgun/applesdgothicneo/'
    'simhei/deng/wqy-microhei/wqy-zenhei/arial unicode/arialuni/droidsansfallback/nanumgothic/ipaexg/takaogothic/'
    'notosans-/dejavusans/segoeui/arial/liberationsans/helvetica'
).split('/')


_UNUSUAL = 'black heavy bold thin light italic oblique condensed narrow mono serif demi extra outline'.split()


# Fonts whose glyphs are pictures, or stand for characters that they do not show.
_NOT_FOR_TEXT = ('lastresort', 'adobeblank', 'emoji', 'symbol', 'wingding', 'webding', 'dingbat', 'marlett')


# Where fonts lie, for who has no matplotlib, which asks the system.
_FOLDERS = (
    *('C:/Windows/Fonts', '~/AppData/Local/Microsoft/Windows/Fonts', '/System/Library/Fonts', '/Library/Fonts'),
    *('~/Library/Fonts', '/usr/share/fonts', '/usr/local/share/fonts', '~/.local/share/fonts', '~/.fonts'),
)

DIGITS = '0123456789.- '  # what a score is written in

_told = set()  # names without glyphs that a line on stderr has named


def _order(file):
    """Sorting key of a font file: well-known first, plain weights before others."""
    name = unicodedata.normalize('NFC', file.name).lower()
    rank = next((i for i, start in enumerate(_WELL_KNOWN) if name.startswith(start)), len(_WELL_KNOWN))
    return rank, any(word in name for word in _UNUSUAL), len(name), name, file.as_posix()


@functools.cache
def font_files():
    """The machine's font files, best first, as a tuple of Path. The last is matplotlib's own DejaVu Sans.

    Raises:
        UserError: there are none, and matplotlib is not installed.
    """
    own = ()
    if installed('matplotlib'):
        # Imported here: it takes half a second, and only drawing needs it.
        import matplotlib
        from matplotlib import font_manager

        files = map(Path, font_manager.findSystemFonts())
        own = (Path(matplotlib.get_data_path(), 'fonts', 'ttf', 'DejaVuSans.ttf'),)
    else:
        files = [file for folder in _FOLDERS for file in Path(folder).expanduser().rglob('*.[to]t[fc]')]
    for_text = {file for file in files if not any(word in file.name.lower() for word in _NOT_FOR_TEXT)}
    if not for_text and not own:
        raise UserError('No font is installed to draw labels with. Install one, or: pip install matplotlib')
    return (*sorted(for_text, key=_order), *own)


@functools.lru_cache(64)
def load_font(file, face, size):
    """Load a face of a font file at a size in pixels, as Pillow's font.

    Raises:
        OSError: Pillow cannot read it.
    """
    # Not ImageFont.truetype: for a broken file that looks for a font of the same name elsewhere.
    font = ImageFont.FreeTypeFont(str(file), size, face)
    try:
        # The variable Noto Sans CJK is hairline thin unless told otherwise.
        font.set_variation_by_name('Regular')
    except (OSError, ValueError, NotImplementedError, AttributeError):
        pass
    return font


def _opened(file, face=0):
    from fontTools.ttLib import TTFont

    return TTFont(file, fontNumber=face, lazy=True)


@functools.cache
def _best_face(file, script):
    """The number of the face that is made for `script` ('SC', 'JP' or 'KR'), else the first; None for a broken file."""
    try:
        with _opened(file) as font:
            n_faces = getattr(font.reader, 'numFonts', 1)  # only a collection (.ttc) says
        names = []
        for face in range(n_faces):
            with _opened(file, face) as font:
                names.append(font['name'].getBestFamilyName() or '')
        best = min(range(n_faces), key=lambda face: (f' {script}' not in names[face], face))
        _characters(file, best)
        load_font(file, best, 24)
    except Exception:
        # For a damaged file fontTools raises whatever its parsers run into.
        return None
    return best


@functools.cache
def _characters(file, face):
    """The code points that a face has glyphs for, as an array: as a set, those of all fonts would fill the memory."""
    with _opened(file, face) as font:
        return np.array(sorted(font.getBestCmap() or ()), np.int32)


@functools.lru_cache(1024)
def _first_with(text, script, files):
    """(file, face) of the first of `files` that has all visible characters of `text`, or None."""
    # U+FE00 to U+FE0F choose variants of the character before.
    visible = [ord(c) for c in text if not c.isspace() and c.isprintable() and not '\ufe00' <= c <= '\ufe0f']
    for file in files:
        face = _best_face(file, script)
        if face is not None and np.isin(visible, _characters(file, face)).all():
            return file, face
    return None


def find_font(text, font=None):
    """Find a font that has a glyph for each visible character of `text`.

    Args:
        text: characters to show.
        font: path of a font file (.ttf, .otf, .ttc) to prefer over the system's.

    Returns:
        (file, face): a Path and the number of the face in it, or None where no font has all glyphs.

    Raises:
        UserError: `font` is no font file.
    """
    script = 'SC'
    if any('\u3040' <= c <= '\u30ff' for c in text):
        script = 'JP'
    elif any('\uac00' <= c <= '\ud7a3' for c in text):
        script = 'KR'
    files = font_files()
    if font:
        if not Path(font).is_file():
            raise UserError(f'{font}: there is no such font file. Give a .ttf, .otf or .ttc file, or none.')
        if _best_face(Path(font), script) is None:
            raise UserError(f'{font}: not a font that can be read. Give a .ttf, .otf or .ttc file, or none.')
        files = (Path(font), *files)
    return _first_with(''.join(sorted(set(text))), script, files)


def latin_font(font=None):
    """(file, face) of a font for Latin text, see `find_font`. There always is one."""
    return find_font(''.join(chr(c) for c in range(33, 127)), font)


def _clean(text):
    """One line of visible characters, no more than a picture can show."""
    return ''.join(c for c in ' '.join(str(text)[:1000].split()) if c.isprintable())


def _ascii(name, number):
    """A spelling of `name` that every font can show; `number`, such as 'class 3', stands for what is lost."""
    if name in ROMANISED:
        return ROMANISED[name]
    parts = unicodedata.normalize('NFKD', name)
    plain = ' '.join(parts.encode('ascii', 'ignore').decode().split())
    lost = any(c.isalnum() and not c.isascii() for c in parts)
    if not any(c.isalnum() for c in plain):
        return number
    return f'{plain} ({number})' if lost else plain


def preferred(font):
    """The path of the font file to prefer: `font`, or that of the environment variable KONOHANA_FONT, or None."""
    return str(font or os.environ.get('KONOHANA_FONT') or '') or None


def for_charts(names, font=None, noun='class'):
    """Names in any script as matplotlib shows them: list of (text, its font); see `spellings`."""
    from matplotlib.font_manager import FontProperties

    spelled = spellings(names, preferred(font), noun)
    return [(no_formula(text), FontProperties(fname=file)) for text, file, _ in spelled]


def no_formula(text):
    """A text that matplotlib shows as it is: to matplotlib a dollar begins a formula."""
    return text.replace('$', r'\$')


def name_ticks(axis, texts, size):
    """Write texts at 0, 1, ... along an axis of matplotlib's. texts: of `for_charts`. size: in points."""
    axis.set_ticks(range(len(texts)), [text for text, _ in texts])
    for tick, (_, face) in zip(axis.get_ticklabels(), texts, strict=True):
        tick.set_fontproperties(face)
        tick.set_fontsize(size)


def spellings(names, font=None, noun='class'):
    """What to draw for each name: one font for all names if there is one that has them, else one for each.

    Names that no font can show are romanised or numbered, which is said once on stderr.

    Args:
        names: list of names, of any characters; control characters and line ends are left out.
        font: see `find_font`. noun: what is numbered, as in 'class 3'.

    Returns:
        list of (text, font file, face).

    Raises:
        UserError: `font` is no font file.
    """
    # Every frame of an episode asks for the same names.
    return list(_spellings(tuple(map(_clean, names)), font, noun, font_files()))


@functools.lru_cache(256)
def _spellings(cleaned, font, noun, _files):
    """`spellings` of names that are cleaned; `_files` is here for the cache alone."""
    found = find_font(''.join([*cleaned, DIGITS]), font)
    if found:
        return [(text, *found) for text in cleaned]
    spelled, missing = [], {}
    for number, text in enumerate(cleaned, 1):
        found = find_font(text + DIGITS, font)
        if not found:
            found = latin_font(font)
            missing[text] = _ascii(text, f'{noun} {number}')
            text = missing[text]
        spelled.append((text, *found))
    _tell(missing)
    return spelled


def _tell(missing):
    """Say once, in one line on stderr, which names no font can show. `missing`: {name: what is drawn instead}."""
    new = [name for name in missing if name not in _told]
    if not new:
        return
    _told.update(new)
    more = f' and {len(new) - 3} more' if len(new) > 3 else ''
    names = ', '.join(new[:3]) + more
    drawn = ', '.join(missing[name] for name in new[:3]) + more
    wide = any(c.isalpha() and unicodedata.east_asian_width(c) == 'W' for name in new for c in name)
    package = 'Noto Sans CJK (on Debian and Ubuntu: fonts-noto-cjk)' if wide else 'Noto Sans'
    print(
        f'No font here has the characters of {names}; drawn as {drawn}. '
        f'Install {package}, or set KONOHANA_FONT to a font file that has them.',
        file=sys.stderr,
    )
