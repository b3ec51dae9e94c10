"""Self-contained HTML pages: they open from disk, without a server, and no request leaves for the network.

A page is a template, a file of HTML with its own style, text and script, and data that JSON can hold:

    pages.write_page(path, Path(__file__).with_name('mistakes.html'), {'names': [...]}, title='Mistakes')

Its head, style and small functions come from `pages.html`, the same for all pages. A template is what follows a head:

    <style>.mine { color: var(--accent); }</style>       (if it has a style of its own)
    <main>
    <h1 id="title"></h1> <div class="scroll"><table id="names"></table></div>
    </main>
    <script>
    'use strict';
    get('title').textContent = data.title;
    table(get('names'), ['Name', 'Frames'], data.names);
    </script>

What a template's script finds there:

    data                        what `write_page` was given
    get(id)                     the element of this id
    make(tag, text, parent)     a new element; text is never taken as HTML, so names may be hostile
    count(3, 'scene')           '3 scenes', and '1 scene'; count(2, 'person', 'people')
    clock(seconds)              '2:03' or '1:02:03', rounded; at(seconds) the same, rounded down; lasting(seconds) with
                                '<0:01' for what is no second long
    header(text, row, scope)    a th of a table, scope 'col' or 'row', its whole text as its tooltip
    table(parent, columns, rows)  fills a table: texts of the columns, and rows of texts, of which the first is a header
    shaded(cell, part)          colours a cell by a part from 0 to 1

Classes of the style: `note` (pale text), `scroll` (a box around what may be wide), `strip` (a row of pictures or of
buttons with pictures), `row` and `name` (a label at the left), `bar`. Colours that follow dark and light: `--line`,
`--soft`, `--accent`. Pictures are data URLs (`data_url`, `close_up`) or files at relative addresses.
"""

import base64
import html
import io
import json
import os
from pathlib import Path
from urllib.parse import quote

import cv2
import numpy as np
from PIL import Image

from konohana import files

LABELLED, FOUND = (255, 255, 255), (255, 140, 0)  # the frames of a close-up: of a label, of a detection


def filled(template, data, title=''):
    """The text of a page.

    Args:
        template: path of its template, see above. data: what JSON can hold. title: of the browser's tab.
    """
    head = Path(__file__).with_suffix('.html').read_text(encoding='utf-8')
    before, after = head.split('DATA', 1)
    before = before.replace('TITLE', html.escape(title or 'konohana'), 1)
    # No text of the user's can end the script element: JSON may write < as an escape.
    text = json.dumps(data, ensure_ascii=False).replace('<', '\\u003c')
    return before + text + after + Path(template).read_text(encoding='utf-8')


def write_page(path, template, data, title=''):
    """Write a page as an output of this program, see `filled`; claim it before the work starts (`files.claim`)."""
    files.write_text(path, filled(template, data, title), remember=True)


def address(path):
    """The address of a file: relative as `path` is, or absolute; names of old archives are no UTF-8."""
    path = Path(path)
    return path.as_uri() if path.is_absolute() else quote(os.fsencode(path.as_posix()))


def data_url(picture, height=120):
    """A picture (uint8 H x W x 3 RGB, or Pillow's) as a JPEG data URL, `height` pixels high."""
    picture = picture if isinstance(picture, Image.Image) else Image.fromarray(picture)
    width = max(1, round(picture.width * height / picture.height))
    file = io.BytesIO()
    picture.convert('RGB').resize((width, height)).save(file, 'JPEG', quality=80)
    return 'data:image/jpeg;base64,' + base64.b64encode(file.getvalue()).decode()


def close_up(picture, boxes, colours, height=160, around=0.5):
    """The part of a picture around boxes, with their frames, as a data URL.

    Args:
        picture: uint8 H x W x 3 RGB. boxes: list of x1, y1, x2, y2 in its pixels; none show the whole picture.
        colours: of the frames, such as `LABELLED` and `FOUND`. height: of the result, in pixels.
        around: what is shown beside the boxes, as a part of their size.
    """
    part, corner = picture, np.zeros(2)
    if len(boxes):
        corners = np.array(boxes, np.float64).reshape(-1, 4)
        low, high = corners[:, :2].min(axis=0), corners[:, 2:].max(axis=0)
        margin = max(around * (high - low).max(), 16.0)
        limits = np.array(picture.shape[1::-1])
        low = np.clip(np.floor(low - margin), 0, limits - 1).astype(int)
        high = np.clip(np.ceil(high + margin), low + 1, limits).astype(int)
        part, corner = picture[low[1] : high[1], low[0] : high[0]], low
    scale = height / part.shape[0]
    size = max(1, round(part.shape[1] * scale)), height
    shown = cv2.resize(part, size, interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR)
    for box, colour in zip(boxes, colours, strict=True):
        x1, y1, x2, y2 = np.rint((np.reshape(box, (2, 2)) - corner) * scale).astype(int).ravel().tolist()
        cv2.rectangle(shown, (x1, y1), (x2 - 1, y2 - 1), (0, 0, 0), 4)
        cv2.rectangle(shown, (x1, y1), (x2 - 1, y2 - 1), colour, 2)
    return data_url(shown, height)
