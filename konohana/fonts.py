"""Fonts that can show a text."""

import functools
import os
import sys
import unicodedata
from pathlib import Path

from PIL import ImageFont

from konohana.cast import ROMANISED
from konohana.errors import UserError

# Beginnings of font files, best first: fonts of many scripts, then each system's own CJK fonts, then Latin ones.
_WELL_KNOWN = (
    'notosanscjk/notosanssc/notosansjp/notosanskr/notosanstc/sourcehansans/'
    'msyh/pingfang/hiragino sans gb/stheiti/ヒラギノ角ゴシック/yugoth/meiryo/msgothic/malgun/applesdgothicneo/'
    'simhei/deng/wqy-microhei/wqy-zenhei/arial unicode/arialuni/droidsansfallback/nanumgothic/ipaexg/takaogothic/'
    'notosans-/dejavusans/segoeui/arial/liberationsans/helvetica'
).split('/')


_UNUSUAL = 'black heavy bold thin light italic oblique condensed narrow mono serif demi extra outline'.split()


# Fonts whose glyphs are pictures or mere stand-ins for characters.
_NOT_FOR_TEXT = ('lastresort', 'adobeblank', 'emoji', 'symbol', 'wingding', 'webding', 'dingbat', 'marlett')


_told = set()  # names without glyphs that a line on stderr has named


def _font_folders():
    """The folders in which Windows, macOS and Linux keep fonts; many do not exist on any one machine."""
    home = Path.home()
    environment = os.environ.get
    return [
        Path(environment('WINDIR', 'C:/Windows')) / 'Fonts',
        Path(environment('LOCALAPPDATA', home / 'AppData/Local')) / 'Microsoft/Windows/Fonts',
        Path('/System/Library/Fonts'),
        *Path('/System/Library/AssetsV2').glob('com_apple_MobileAsset_Font*'),
        Path('/Library/Fonts'),
        home / 'Library/Fonts',
        Path(environment('XDG_DATA_HOME', home / '.local/share')) / 'fonts',
        home / '.fonts',
        Path('/usr/share/fonts'),
        Path('/usr/local/share/fonts'),
        Path('/mnt/c/Windows/Fonts'),
    ]


def _order(file):
    """Sorting key of a font file: well-known first, plain weights before others."""
    name = unicodedata.normalize('NFC', file.name).lower()
    rank = next((i for i, start in enumerate(_WELL_KNOWN) if name.startswith(start)), len(_WELL_KNOWN))
    return rank, any(word in name for word in _UNUSUAL), len(name), name


@functools.cache
def font_files():
    """The system's font files, best first, as a tuple of Path. Looked for once."""
    files = set()
    for folder in _font_folders():
        for parent, _, names in os.walk(folder):
            for name in names:
                usable = not any(word in name.lower() for word in _NOT_FOR_TEXT)
                if usable and name.lower().endswith(('.ttf', '.otf', '.ttc', '.otc')):
                    files.add(Path(parent, name))
    return tuple(sorted(files, key=_order))


@functools.lru_cache(64)
def _load_font(file, face, size):
    """A face of a font file at a size in pixels; file None is Pillow's own Latin font. OSError if it cannot be used."""
    if file is None:
        return ImageFont.load_default(size)
    # Not ImageFont.truetype: for a broken file that looks for a font of the same name elsewhere.
    font = ImageFont.FreeTypeFont(str(file), size, face)
    try:
        # The variable Noto Sans CJK is hairline thin unless told otherwise.
        font.set_variation_by_name('Regular')
    except (OSError, ValueError, NotImplementedError, AttributeError):
        pass
    return font


@functools.lru_cache(64)
def _faces(file, script):
    """Face numbers of a font file, the one made for `script` ('SC', 'JP' or 'KR') first; none for a broken file."""
    names = []
    try:
        for face in range(32 if file else 1):
            names.append(_load_font(file, face, 24).getname()[0] or '')
    except (OSError, ValueError):
        pass  # past the last face, or no font at all
    return tuple(sorted(range(len(names)), key=lambda face: (f' {script}' not in names[face], face)))


def _picture_of(font, text):
    mask, offset = font.getmask2(text, mode='L')
    return mask.size, tuple(offset), bytes(mask)


def _has_glyphs(font, text):
    """Whether the font has a glyph of its own for each visible character: none blank, none the stand-in box."""
    try:
        # U+10FFFF is no character, so every font shows its stand-in for it.
        stand_in = _picture_of(font, '\U0010ffff')
        for character in text:
            if character.isspace() or not character.isprintable() or '\ufe00' <= character <= '\ufe0f':
                continue
            picture = _picture_of(font, character)
            if picture == stand_in or not any(picture[2]):
                return False
    except (OSError, ValueError):
        return False
    return True


@functools.lru_cache(256)
def find_font(text, font=None):
    """Find a font that has the glyphs of `text`, checked by rendering them.

    Args:
        text: characters to show.
        font: path of a font file (.ttf, .otf, .ttc) to prefer over the system's.

    Returns:
        (file, face): a Path and the number of the face in it, or None where no font has all glyphs.
        (None, 0) is Pillow's own font, for machines without any.

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
        if not _faces(Path(font), script):
            raise UserError(f'{font}: not a font that can be read. Give a .ttf, .otf or .ttc file, or none.')
        files = (Path(font), *files)
    characters = ''.join(sorted(set(text)))
    for file in (*files, None):
        for face in _faces(file, script)[:1]:
            if _has_glyphs(_load_font(file, face, 24), characters):
                return file, face
    return None


def _clean(text):
    """One line of visible characters."""
    return ''.join(c for c in ' '.join(str(text).split()) if c.isprintable())


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


_DIGITS = '0123456789.- '


@functools.lru_cache(256)
def _spellings(names, font, noun='class'):
    """Per name (text to draw, font file, face). One font for all names if there is one, else one for each."""
    cleaned = tuple(_clean(name) for name in names)
    found = find_font(''.join(sorted({*''.join(cleaned), *_DIGITS})), font)
    if found:
        return tuple((text, *found) for text in cleaned)
    spellings = []
    missing = {}
    for number, (name, text) in enumerate(zip(names, cleaned, strict=True), 1):
        found = find_font(text + _DIGITS, font)
        if not found:
            found = _latin_font(font)
            missing[text] = _ascii(name, f'{noun} {number}')
            text = missing[text]
        spellings.append((text, *found))
    _tell(missing)
    return tuple(spellings)


def _latin_font(font):
    return find_font(''.join(chr(c) for c in range(33, 127)), font) or (None, 0)


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
