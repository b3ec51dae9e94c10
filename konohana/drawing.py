"""Drawing of detections, of the detector's maps, and of sheets that show them side by side.

OpenCV draws boxes and masks on the array. It knows no script but ASCII, so Pillow renders the labels, once per text, in
a font that fonts.py finds, and they are pasted as ready tags.
"""

import bisect
import colorsys
import functools

import cv2
import numpy as np
from PIL import Image, ImageDraw

from konohana import fonts
from konohana.boxes import as_array, intersection
from konohana.data.images import as_picture

# Twenty-odd colours that people tell apart (Sasha Trubetskoy, https://sashamaps.net/docs/resources/20-colors/), without
# the greys; neighbours differ most. More classes continue with hues at the golden angle.
_COLOURS = (
    *((230, 25, 75), (60, 180, 75), (255, 225, 25), (67, 99, 216), (245, 130, 49), (145, 30, 180), (66, 212, 244)),
    *((240, 50, 230), (191, 239, 69), (250, 190, 212), (70, 153, 144), (220, 190, 255), (154, 99, 36), (255, 250, 200)),
    *((128, 0, 0), (170, 255, 195), (128, 128, 0), (255, 216, 177), (0, 0, 117)),
)


_BACKGROUND = (24, 24, 24)  # of sheets, between the panels
_STAMP = len('_00h12m03s250')  # characters at the end of a frame's name that say its time
_SMALLEST_TEXT = 9  # pixels; Chinese characters are not readable below


def class_colour(index):
    """The colour of class `index` (0 is the first of class_names): (r, g, b), 0 to 255, the same in every frame."""
    index = int(index)
    if 0 <= index < len(_COLOURS):
        return _COLOURS[index]
    red, green, blue = colorsys.hls_to_rgb(index * 0.618034 % 1, (0.35, 0.5, 0.7)[index % 3], 0.85)
    return round(red * 255), round(green * 255), round(blue * 255)


def text_colour(colour):
    """Black or white, whichever stands out on `colour`: the contrast rule of WCAG 2."""
    linear = [(v / 255) ** 2.2 for v in colour]
    luminance = 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]
    return (0, 0, 0) if luminance > 0.18 else (255, 255, 255)


def text_size(hw):
    """Height of label text in pixels for a picture of `hw` (height, width): 16 at 360 x 640, 34 at 1080 x 1920."""
    side = (max(hw[0], 1) * max(hw[1], 1)) ** 0.5
    return max(_SMALLEST_TEXT, round(16 * (side / 480) ** 0.7))


@functools.lru_cache(4096)
def _extent(text, file, face, size):
    """Left, top, right, bottom of `text` from its baseline; top and bottom at least those of a line of Latin text."""
    left, top, right, bottom = fonts.load_font(file, face, size).getbbox(text, anchor='ls')
    if text == 'Hg':
        return left, top, right, bottom
    _, highest, _, lowest = _extent('Hg', file, face, size)
    return left, min(top, highest), right, max(bottom, lowest)


def _rim(size):
    """Width in pixels of the thin contrasting lines around box lines and tags, for text of `size` pixels."""
    return max(1, round(size / 20))


def _thickness(size):
    """Width in pixels of the coloured line of boxes and masks, for text of `size` pixels."""
    return max(1, round(size / 7))


def _padding(size):
    """Space in pixels around the text of a tag, across and down, the rim included."""
    return max(3, size // 3), max(1, size // 8) + _rim(size)


def _tag_size(text, file, face, size):
    """(width, height) in pixels of the tag that `_tag` makes."""
    left, top, right, bottom = _extent(text, file, face, size)
    across, down = _padding(size)
    return int(right - left) + 2 * across, int(bottom - top) + 2 * down


@functools.lru_cache(4096)
def _fit(name, score, file, face, size, limit_w, limit_h):
    """Shrink, then cut the name, then give up the score, until a tag fits. (text, size) or None."""

    def fits(text, size):
        w, h = _tag_size(text, file, face, size)
        return w <= limit_w and h <= limit_h

    smallest = min(size, max(_SMALLEST_TEXT, round(size * 0.7)))
    for s in range(size, smallest - 1, -1):
        if fits(name + score, s):
            return name + score, s
    for ending in (score, ''):
        if fits(name + ending, smallest):
            return name + ending, smallest
        # The longest beginning that fits; a longer text is a wider one.
        texts = [name[:n].rstrip() + '..' + ending for n in range(1, len(name))]
        n = bisect.bisect(texts, False, key=lambda text: not fits(text, smallest))
        if n:
            return texts[n - 1], smallest
    return next(((name[:1], s) for s in range(smallest, 5, -1) if fits(name[:1], s)), None)


@functools.lru_cache(1024)
def _tag(text, file, face, size, colour, rimmed=True):
    """A ready tag, uint8 h x w x 3: text in black or white on `colour`, with a thin rim of the text's colour."""
    font = fonts.load_font(file, face, size)
    left, top, _, _ = _extent(text, file, face, size)
    across, down = _padding(size)
    w, h = _tag_size(text, file, face, size)
    ink = text_colour(colour)
    tag = Image.new('RGB', (w, h), colour)
    ImageDraw.Draw(tag).text((across - left, down - top), text, ink, font, anchor='ls')
    tag = np.array(tag)
    if rimmed:
        for x1, y1, x2, y2 in _border((0, 0, w, h), 0, _rim(size)):
            tag[y1:y2, x1:x2] = ink
    return tag


def place_tags(boxes, sizes, hw):
    """Places for the tags of boxes, inside the picture and off one another where a free place is near.

    Each tag tries places at its box's corners, above the box first, then lower and higher along its left side, and
    takes the one that hides least: of the tags placed before, above all, and of small boxes, its own included. A plain
    greedy search: the first boxes get the best places.

    Args:
        boxes: n x 4 x1, y1, x2, y2 in pixels. sizes: n (width, height) of the tags, each no larger than the picture.
        hw: height and width of the picture.

    Returns:
        n x 4 int array of x1, y1, x2, y2, all within the picture.
    """
    boxes = np.asarray(boxes, np.float64).reshape(-1, 4)
    areas = (boxes[:, 2:] - boxes[:, :2]).prod(1).clip(1)
    placed = np.zeros((len(boxes), 4))
    for i, ((x1, y1, x2, y2), (w, h)) in enumerate(zip(boxes, sizes, strict=True)):
        places = [(x1, y1 - h), (x1, y1), (x2 - w, y1 - h), (x1, y2), (x1, y2 - h), (x2 - w, y1), (x2 - w, y2)]
        places += [(x1, y1 + step * h) for step in (1, 2, 3, 4)] + [(x1, y1 - step * h) for step in (2, 3)]
        corners = np.clip(places, 0, (hw[1] - w, hw[0] - h)).astype(int)
        tags = np.concatenate([corners, corners + (w, h)], 1).astype(float)
        hidden = 10 * _shared(tags, placed[:i]).sum(1) / (w * h)
        hidden += (_shared(tags, boxes) / areas).sum(1)
        placed[i] = tags[(hidden + 0.1 * np.arange(len(tags))).argmin()]
    return placed.astype(int)


def _shared(a, b):
    """n x 4 and m x 4 boxes, arrays -> n x m areas that they have in common."""
    return intersection(a[:, None], b)


def _border(box, inset, thickness):
    """The four rectangles x1, y1, x2, y2 of a border inside `box`; square corners, and never outside."""
    x1, y1, x2, y2 = box[0] + inset, box[1] + inset, box[2] - inset, box[3] - inset
    if x1 >= x2 or y1 >= y2:
        return []
    return [
        (x1, y1, x2, min(y1 + thickness, y2)),
        (x1, max(y2 - thickness, y1), x2, y2),
        (x1, y1, min(x1 + thickness, x2), y2),
        (max(x2 - thickness, x1), y1, x2, y2),
    ]


def _scaled_mask(mask, hw):
    """A mask scaled to a picture of `hw` (height, width), cut out: (x, y, uint8 part of 0 and 1), or None if empty.

    Args:
        mask: h x w, bool or numbers in 0..1, of which 0.5 and more is inside.
    """
    mask = np.ascontiguousarray(mask)
    solid = (mask if mask.dtype == bool else mask >= 0.5).view(np.uint8)
    x, y, w, h = cv2.boundingRect(solid)
    if w == 0:
        return None
    if mask.shape == tuple(hw):
        return x, y, solid[y : y + h, x : x + w]
    # Between two pixels of a small mask the edge may be anywhere, so one more is looked at on each side.
    across, down = hw[1] / mask.shape[1], hw[0] / mask.shape[0]
    x1, y1 = max(0, int((x - 1) * across)), max(0, int((y - 1) * down))
    x2, y2 = min(hw[1], int((x + w + 1) * across) + 1), min(hw[0], int((y + h + 1) * down) + 1)
    places = np.array([[1 / across, 0, (x1 + 0.5) / across - 0.5], [0, 1 / down, (y1 + 0.5) / down - 0.5]])
    source = solid * 255 if mask.dtype == bool else mask.astype(np.float32) * 255
    how = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    part = cv2.warpAffine(source, places, (x2 - x1, y2 - y1), flags=how, borderMode=cv2.BORDER_REPLICATE)
    return x1, y1, (part >= 127.5).view(np.uint8)


def _draw_mask(image, mask, colour, thickness, rim):
    """Tint a mask in place and draw its contour; see `_scaled_mask` for what it may be."""
    scaled = _scaled_mask(mask, image.shape[:2])
    if scaled is None:
        return
    x, y, mask = scaled
    part = image[y : y + mask.shape[0], x : x + mask.shape[1]]
    tinted = cv2.add(cv2.convertScaleAbs(part, alpha=0.55), (*(0.45 * value for value in colour), 0))
    np.copyto(part, cv2.copyTo(tinted, mask, part.copy()))
    contours, _ = cv2.findContours(mask, cv2.RETR_CCOMP, cv2.CHAIN_APPROX_SIMPLE)
    # Within a pixel of the mask's edge: a fifth of the points, so of the time, and the steps of slanted edges are gone.
    contours = [cv2.approxPolyDP(contour, 0.8, True) for contour in contours]
    cv2.drawContours(image, contours, -1, text_colour(colour), thickness + 2 * rim, cv2.LINE_AA, offset=(x, y))
    cv2.drawContours(image, contours, -1, colour, thickness, cv2.LINE_AA, offset=(x, y))


def draw_detections(image, detections, class_names, label_names=None, threshold=0.0, font=None):
    """Draw boxes, masks and labels on a copy of a picture.

    Args:
        image: uint8 H x W x 3 RGB.
        detections: dict of torch tensors or numpy arrays, as torchvision's detectors return it: `boxes` n x 4 x1, y1,
            x2, y2 in pixels of `image`; `labels` n ints, label k naming class_names[k - 1]; `scores` n in 0..1, may be
            missing (ground truth); `masks` n x h x w or n x 1 x h x w bool or probabilities, may be missing, and are
            scaled to the picture where they have another size.
        class_names: names of the classes, without the background.
        label_names: {class name: other spelling to draw}, or None.
        threshold: detections of a lower score are not drawn.
        font: path of a font file to prefer; None takes that of the environment variable KONOHANA_FONT, or the system's.

    Returns:
        uint8 H x W x 3 RGB. A box is drawn as far as it is visible; one without visible area, or with a coordinate that
        is not a number, is not drawn. Names that no font can show are romanised, which is said once on stderr.

    Raises:
        UserError: `font` or KONOHANA_FONT is no font file.
        ValueError: the arrays do not have these shapes.
    """
    out = np.array(as_picture(image), order='C')
    hw = out.shape[:2]
    if detections.get('masks') is not None:
        _draw_masks(out, detections, threshold)
    for (x1, y1, x2, y2), paint in strokes(hw, detections, class_names, label_names, threshold, font):
        out[y1:y2, x1:x2] = paint
    return out


def strokes(hw, detections, class_names, label_names=None, threshold=0.0, font=None):
    """The boxes and labels of detections as opaque rectangles, to be painted one after another.

    Args:
        hw: height and width of the picture. Others: see `draw_detections`; masks have no strokes.

    Returns:
        list of (rectangle (x1, y1, x2, y2) within the picture, paint): a colour (r, g, b), or a tag, uint8 h x w x 3 of
        the rectangle's size, the same array for the same text.
    """
    boxes, labels, scores, _ = _fields(detections)
    font = fonts.preferred(font)
    spelled = fonts.spellings([(label_names or {}).get(name, name) for name in map(str, class_names)], font)
    shown, pixels = _visible(boxes, scores, threshold, hw)
    colours = [class_colour(label - 1) for label in labels[shown]]
    size = text_size(hw)
    painted = [
        stroke
        for box, colour in zip(pixels.tolist(), colours, strict=True)
        for stroke in _box_strokes(box, colour, size)
    ]
    texts = []
    for i in shown:
        known = 1 <= labels[i] <= len(spelled)
        spelling = spelled[labels[i] - 1] if known else (f'class {labels[i]}', *fonts.latin_font(font))
        texts.append((*spelling, '' if scores is None else f' {scores[i]:.2f}'))
    return painted + _tag_strokes(hw, pixels, texts, colours, size)


def _draw_masks(image, detections, threshold):
    """Draw the masks of detections in place, see `draw_detections`."""
    boxes, labels, scores, masks = _fields(detections)
    size = text_size(image.shape[:2])
    for i in _visible(boxes, scores, threshold, image.shape[:2])[0]:
        _draw_mask(image, masks[i], class_colour(labels[i] - 1), _thickness(size), _rim(size))


def _fields(detections):
    """What `draw_detections` takes -> (boxes n x 4, labels n, scores n or None, masks n x h x w or None), as arrays."""
    boxes = as_array(detections['boxes']).astype(np.float64).reshape(-1, 4)
    labels = as_array(detections['labels']).astype(np.int64).reshape(-1)
    scores, masks = detections.get('scores'), detections.get('masks')
    scores = None if scores is None else as_array(scores).astype(np.float64).reshape(-1)
    if masks is not None:
        masks = as_array(masks)
        masks = masks.reshape(-1, *masks.shape[-2:])
    for name, values in (('labels', labels), ('scores', scores), ('masks', masks)):
        if values is not None and len(values) != len(boxes):
            raise ValueError(f'{len(boxes)} boxes, {len(values)} {name}: there must be as many of each')
    return boxes, labels, scores, masks


def _visible(boxes, scores, threshold, hw):
    """Which detections are drawn, best last so that it lies on top, and where.

    Returns:
        (k indices; int array k x 4 of x1, y1, x2, y2, within the picture and at least a pixel wide and high).
    """
    limits = (hw[1], hw[0], hw[1], hw[0])
    order = np.arange(len(boxes)) if scores is None else scores.argsort(kind='stable')
    clipped = np.clip(boxes[order], 0, limits)
    # Written so that nan, which compares with nothing, is left out.
    seen = (clipped[:, 2:] > clipped[:, :2]).all(1)
    if scores is not None:
        seen &= scores[order] >= threshold
    # Half pixels go to the even side, as Python rounds.
    pixels = np.rint(clipped[seen]).astype(np.int64)
    pixels[:, :2] = np.minimum(pixels[:, :2], (hw[1] - 1, hw[0] - 1))
    pixels[:, 2:] = np.maximum(pixels[:, 2:], pixels[:, :2] + 1)
    return order[seen], pixels


def _box_strokes(box, colour, size):
    """A box's border: a coloured line between two thin ones that contrast with it. One shows on any background."""
    thickness, rim = _thickness(size), _rim(size)
    ink = text_colour(colour)
    outer, inner = _border(box, 0, thickness + 2 * rim), _border(box, rim, thickness)
    return [(side, ink) for side in outer] + [(side, colour) for side in inner]


def _tag_strokes(hw, boxes, texts, colours, size):
    """A tag at each box; the last boxes get the best places.

    Args:
        boxes: int array n x 4. texts: n (name, font file, face, score). colours: n. size: of the text, in pixels.
    """
    height, width = hw
    limit = min(width, max(width // 2, 12 * size)), height
    tags, tagged = [], []
    for i in reversed(range(len(texts))):
        name, file, face, score = texts[i]
        fit = _fit(name, score, file, face, size, *limit)
        if fit:
            tags.append(_tag(fit[0], file, face, fit[1], colours[i]))
            tagged.append(i)
    places = place_tags(boxes[tagged], [tag.shape[1::-1] for tag in tags], (height, width))
    return [(tuple(place), tag) for place, tag in zip(places[::-1].tolist(), reversed(tags), strict=True)]


def heat_map(map, hw, background=None):
    """A map of values as a picture in viridis, whose steps look equally large (Smith and van der Walt).

    Args:
        map: h x w (or 1 x h x w) floats in 0..1, torch or numpy, of any size; values outside are clipped, NaN is 0.
        hw: height and width of the picture.
        background: uint8 H x W x 3 RGB to show through faintly in grey, or None.

    Returns:
        uint8 height x width x 3 RGB.
    """
    values = np.nan_to_num(as_array(map).astype(np.float32)).clip(0, 1)
    values = (values.reshape(values.shape[-2:]) * 255).round().astype(np.uint8)
    values = cv2.resize(values, (hw[1], hw[0]), interpolation=cv2.INTER_LINEAR)
    steps = np.arange(256, dtype=np.uint8).reshape(256, 1)
    viridis = np.ascontiguousarray(cv2.applyColorMap(steps, cv2.COLORMAP_VIRIDIS)[..., ::-1])
    if background is None:
        return cv2.applyColorMap(values, viridis)
    # The frame shows through where the map is low; high values keep the pure colour.
    share = 0.35 * (1 - steps[..., None] / 255)
    grey = cv2.cvtColor(np.ascontiguousarray(background), cv2.COLOR_RGB2GRAY)
    grey = cv2.resize(grey, (hw[1], hw[0]), interpolation=cv2.INTER_AREA)
    grey = cv2.multiply(grey, 255 - values, scale=0.35 / 255)
    colours = cv2.applyColorMap(values, (viridis * (1 - share)).astype(np.uint8))
    return cv2.add(colours, cv2.cvtColor(grey, cv2.COLOR_GRAY2RGB))


def sheet(panels, titles=None, columns=2, kept=0):
    """Panels side by side, `columns` in a row, each under a strip with its title.

    Args:
        panels: uint8 H x W x 3 RGB pictures, usually four: frame, annotated frame, objectness, quality. Those of
            another size than the first are resized to it.
        titles: a text per panel, or None for no strips.
        columns: panels in a row.
        kept: characters at the end of a title that stay where it is too long, its middle left out.

    Returns:
        uint8 RGB picture; height and width are even, as video encoders want them.
    """
    h, w = panels[0].shape[:2]
    size = text_size((h, w))
    gap = 2 * max(1, size // 8)
    strip = 0 if titles is None else 2 * round(size * 0.9)
    columns = min(columns, len(panels))
    rows = -(-len(panels) // columns)
    height = rows * (strip + h) + (rows - 1) * gap
    width = columns * w + (columns - 1) * gap
    out = np.full((height + height % 2, width + width % 2, 3), _BACKGROUND, np.uint8)
    for i, panel in enumerate(panels):
        x, y = (i % columns) * (w + gap), (i // columns) * (strip + h + gap)
        if panel.shape[:2] != (h, w):
            panel = cv2.resize(panel, (w, h), interpolation=cv2.INTER_AREA)
        out[y + strip : y + strip + h, x : x + w] = panel
    spelled = [] if titles is None else fonts.spellings(titles, fonts.preferred(None), 'panel')
    for i, (text, file, face) in enumerate(spelled):
        x, y = (i % columns) * (w + gap), (i // columns) * (strip + h + gap)
        end = max(1, len(text) - kept) if kept else len(text)
        fit = _fit(text[:end], text[end:], file, face, max(_SMALLEST_TEXT, round(size * 0.9)), w, strip)
        if fit:
            tag = _tag(fit[0], file, face, fit[1], _BACKGROUND, False)
            top = y + (strip - tag.shape[0]) // 2
            out[top : top + tag.shape[0], x : x + tag.shape[1]] = tag
    return out


def contact_sheet(tiles, titles, hw, columns):
    """Small pictures in rows, each under its title: one look shows them all.

    Args:
        tiles: uint8 H x W x 3 RGB pictures of any size, at least one. titles: a text for each, which ends in the name
            of a frame: of a long name the end, which says the time, stays.
        hw: height and width of a tile in pixels; a picture of another shape gets bars.
        columns: tiles in a row.

    Returns:
        uint8 RGB picture.
    """
    return sheet([boxed(tile, hw) for tile in tiles], titles, columns, _STAMP)


def boxed(picture, hw):
    """A picture (uint8 H x W x 3) within `hw` (height, width), its shape kept, bars at its sides."""
    scale = min(hw[0] / picture.shape[0], hw[1] / picture.shape[1])
    h, w = (max(1, min(side, round(length * scale))) for side, length in zip(hw, picture.shape[:2], strict=True))
    small = cv2.resize(picture, (w, h), interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR)
    out = np.full((*hw, 3), _BACKGROUND, np.uint8)
    y, x = (hw[0] - h) // 2, (hw[1] - w) // 2
    out[y : y + h, x : x + w] = small
    return out
