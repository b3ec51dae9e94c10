"""Reading and writing single pictures: any file in, RGB out, with one clear line for a file that cannot be used.

Pillow and not OpenCV, because OpenCV's imread and imwrite fail on Chinese paths on Windows and its decoder returns
half a picture for a truncated JPEG without a word.
"""

import warnings
from pathlib import Path

import cv2
import numpy as np
from PIL import Image, ImageOps

from konohana import files
from konohana.errors import UserError

# What is opened, whatever a file's ending says: Pillow knows others that start programs (EPS) or hold no picture.
FORMATS = ('JPEG', 'PNG', 'WEBP', 'BMP', 'GIF', 'TIFF')
PICTURE_ENDINGS = ('.jpg', '.jpeg', '.jfif', '.png', '.bmp', '.webp', '.gif', '.tif', '.tiff')
# Pictures to whoever put them among the others: reading them says in one line that they have to be converted.
OTHER_ENDINGS = (
    *('.heic', '.heif', '.avif', '.jxl', '.jp2', '.j2k', '.jpe', '.apng', '.tga', '.dds', '.exr', '.hdr', '.psd'),
    *('.ppm', '.pgm', '.pbm', '.pnm', '.pcx', '.ico', '.svg', '.eps', '.xcf', '.qoi', '.raw', '.dng', '.cr2', '.nef'),
)

# More pixels than any frame of a show has: a small file may claim a size that fills the memory.
MAX_PIXELS = 120_000_000

# Pillow's own limits speak in warnings; the check below says it in one line. A damaged EXIF block costs only the
# orientation.
warnings.filterwarnings('ignore', category=Image.DecompressionBombWarning)
warnings.filterwarnings('ignore', message='Corrupt EXIF data')


def _to_rgb(image):
    """A loaded Pillow image of any mode as one of mode RGB: transparency over white, deep grey scaled to 8 bits."""
    if image.mode == 'RGB' and 'transparency' not in image.info:
        return image
    if image.mode.startswith(('I', 'F')):
        grey = np.asarray(image).astype(np.float32)
        largest = np.nanmax(grey, initial=0)
        # 16-bit grey opens as I;16 or I; floats hold 0..1 or 0..255; 32-bit integers seldom use all their bits.
        if image.mode == 'F':
            full = 1 if largest <= 1 else 255
        else:
            full = 65535 if largest <= 65535 else largest
        grey = np.clip(np.nan_to_num(grey) * (255 / full), 0, 255).round().astype(np.uint8)
        return Image.fromarray(grey).convert('RGB')
    if image.mode in ('RGBA', 'LA', 'PA', 'RGBa', 'La') or 'transparency' in image.info:
        image = image.convert('RGBA')
        white = Image.new('RGBA', image.size, 'white')
        return Image.alpha_composite(white, image).convert('RGB')
    return image.convert('RGB')


def load_image(path):
    """Read a picture as RGB.

    Args:
        path: a JPEG, PNG, WebP, BMP, GIF or TIFF file, whatever its ending; of an animation the first frame is read.

    Returns:
        uint8 H x W x 3 RGB, writable, turned upright by its EXIF orientation. Palette, grey, 16-bit grey and CMYK are
        converted, transparency lies over white.

    Raises:
        UserError: the file is missing, no file (a folder, a pipe), no such picture, damaged or cut off, or claims more
            than `MAX_PIXELS` pixels.
    """
    with files.reading(path):
        files.check_regular(path)
        with Path(path).open('rb') as file:
            return _decoded(file, path)


def _decoded(file, path):
    """An open file -> uint8 H x W x 3."""
    too_large = f'more than {MAX_PIXELS // 1_000_000} million pixels. Make the picture smaller.'
    try:
        with Image.open(file, formats=FORMATS) as image:
            if image.width * image.height > MAX_PIXELS:
                raise UserError(f'{path}: {image.width} x {image.height} is {too_large}')
            image.load()  # first, because a PNG may hold its EXIF block after the pixels
            if image.getexif().get(0x0112, 1) != 1:
                image = ImageOps.exif_transpose(image)
            return np.array(_to_rgb(image))
    except (UserError, MemoryError):
        raise
    except Image.DecompressionBombError:
        raise UserError(f'{path}: it claims {too_large}') from None
    except Image.UnidentifiedImageError:
        empty = ' (the file is empty)' if file.seek(0, 2) == 0 else ''
        raise UserError(
            f'{path}: not a picture that can be read{empty}. Convert it to PNG or JPEG, or remove it.'
        ) from None
    except Exception as error:
        # Pillow's decoders raise OSError, SyntaxError, ValueError, struct.error and more for damaged files.
        raise UserError(f'{path}: damaged ({files.reason(error)}). Copy it again or remove it.') from None


def as_picture(image):
    """A picture that a caller gives, as an array: an array, or what NumPy makes one of, such as Pillow's pictures.

    Args:
        image: uint8 H x W x 3.

    Raises:
        ValueError: it is something else.
    """
    array = np.asarray(image)
    if array.dtype != np.uint8 or array.ndim != 3 or array.shape[2] != 3:
        raise ValueError(f'a picture must be uint8 H x W x 3, not {_described(image, array)}')
    return array


def check_planes(image, kind=object):
    """Check a picture as detectors take it when they are called, with the channels first.

    Args:
        image: 3 x H x W, a tensor or an array. kind: the class that it has to be of.

    Raises:
        ValueError: it is something else.
    """
    if not isinstance(image, kind) or len(getattr(image, 'shape', ())) != 3 or image.shape[0] != 3:
        raise ValueError(f'detectors are called with a list of tensors, each 3 x H x W, not {_described(image, image)}')


def _described(image, array):
    """What a caller gave instead of a picture; of a file's name, what reads it."""
    if isinstance(image, (str, Path)):
        return f'{image!r:.100}: konohana.data.images.load_image reads a file'
    kind = f'{type(image).__module__}.{type(image).__qualname__}'.removeprefix('builtins.')
    shape = getattr(array, 'shape', None)
    return kind if shape is None else f'{kind} of {array.dtype} {tuple(shape)}'


def save_image(path, image, remember=False):
    """Write a picture, whole or not at all.

    Args:
        path: file to write; the ending says the format: .jpg or .jpeg (quality 92) or .png. Missing folders are made,
            an existing file is replaced.
        image: uint8 H x W x 3 RGB, or H x W grey.
        remember: put the file onto the list of outputs, see `files.claim`.

    Raises:
        UserError: another ending, or the file cannot be written.
        ValueError: `image` is no such array.
    """
    path = Path(path)
    image = np.asarray(image)
    image = image if image.ndim == 2 and image.dtype == np.uint8 else as_picture(image)
    if path.suffix.lower() in ('.jpg', '.jpeg'):
        # No chroma subsampling: it blurs the thin coloured lines and labels of drawn boxes.
        options = {'format': 'JPEG', 'quality': 92, 'subsampling': 0}
    elif path.suffix.lower() == '.png':
        # Level 6, the default, takes several times as long for a few percent.
        options = {'format': 'PNG', 'compress_level': 2}
    else:
        raise UserError(f'{path}: pictures are written as .jpg or .png. Change the ending.')
    with files.replacing(path, remember) as temporary:
        try:
            Image.fromarray(image).save(temporary, **options)
        except (SystemError, ValueError) as error:
            # Of pictures that a format cannot hold: empty, or a side over 65500.
            raise UserError(f'{path}: cannot be written ({files.reason(error)}). Choose another format.') from None


def fit_size(height, width, img_hw):
    """Height and width in pixels to which a picture is resized for a network, aspect ratio kept.

    The short side becomes min(img_hw), unless the long side would then exceed max(img_hw).

    Raises:
        ValueError: there is no pixel to resize.
    """
    if not height or not width:
        raise ValueError(f'a picture of {height} x {width} pixels has nothing to see')
    scale = min(min(img_hw) / min(height, width), max(img_hw) / max(height, width))
    return max(1, round(height * scale)), max(1, round(width * scale))


def resize(image, hw):
    """A picture at another size, smoothed where it shrinks.

    Args:
        image: uint8 H x W x 3. hw: (height, width) in pixels.

    Returns:
        uint8 height x width x 3; the same picture where it has that size already.
    """
    if image.shape[:2] == tuple(hw):
        return image
    return np.array(Image.fromarray(image).resize((hw[1], hw[0]), Image.Resampling.BILINEAR))


def cut_out(image, boxes, side, margin=0.0):
    """Cut boxes out of a picture, each resized to a square.

    Args:
        image: H x W x 3, uint8 or float32. boxes: n x 4 (x1, y1, x2, y2 in pixels of it). side: of the squares in
            pixels.
        margin: of a box's width and height, which the square shows more at each side, as far as the picture reaches.

    Returns:
        n x side x side x 3, of the type of `image`.
    """
    height, width = image.shape[:2]
    around = margin * (boxes[:, 2:] - boxes[:, :2])
    regions = np.concatenate([boxes[:, :2] - around, boxes[:, 2:] + around], axis=1)
    regions = regions.clip(0, [width, height, width, height]).round().astype(int)
    crops = np.empty((len(boxes), side, side, 3), image.dtype)
    for crop, (x1, y1, x2, y2) in zip(crops, regions.tolist(), strict=True):
        left, top = min(x1, width - 1), min(y1, height - 1)
        crop[:] = _squashed(image[top : max(y2, top + 1), left : max(x2, left + 1)], side)
    return crops


def _squashed(image, side):
    """A picture, H x W x 3, resized to a square of this side.

    Bilinear interpolation sees every pixel while it shrinks to no less than a half; the rest is a mean over whole
    pixels. That takes a fraction of the time of cv2.INTER_AREA alone, and of Pillow's.
    """
    height, width = (side * max(1, -(-n // (2 * side))) for n in image.shape[:2])
    image = cv2.resize(image, (width, height), interpolation=cv2.INTER_LINEAR)
    return image if height == width == side else cv2.resize(image, (side, side), interpolation=cv2.INTER_AREA)


def with_ending(path):
    """The picture that a path without an ending means, whichever ending it has; None where there is none."""
    endings = (e for ending in PICTURE_ENDINGS + OTHER_ENDINGS for e in (ending, ending.upper()))
    return next((picture for e in endings if _is_file(picture := path.parent / f'{path.name}{e}')), None)


def _is_file(path):
    try:
        return path.is_file()
    except OSError:
        return False  # a name too long, a folder that may not be read: said when the picture is opened


def list_pictures(folder):
    """The pictures directly in `folder`, sorted by name, with those of kinds that `load_image` refuses.

    Raises:
        UserError: the folder is missing, cannot be read, or holds no picture.
    """
    folder = Path(folder)
    with files.reading(folder):
        if not folder.is_dir():
            raise UserError(f'{folder}: there is no such folder.')
        paths = sorted(path for path in files.entries(folder) if path.suffix.lower() in PICTURE_ENDINGS + OTHER_ENDINGS)
    if not paths:
        raise UserError(f'{folder}: no pictures there (looked for {" ".join(PICTURE_ENDINGS)}).')
    return paths
