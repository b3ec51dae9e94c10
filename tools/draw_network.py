"""Draw the default network's structure as an SVG picture: python tools/draw_network.py overwrite=True

Reads everything in the picture from the network itself: its modules, and the sizes and costs of one run. After a change
of the tables in konohana/detectors/konohana/network.py, run this again.
"""

import sys
from html import escape
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

# PyTorch and what needs it are imported where they are used, so that --help answers at once.
from konohana import files
from konohana.errors import UserError
from konohana.settings import read, require, run

svg_out = 'docs/network.svg'  # file to write; relative paths start at the project's folder
overwrite = False  # replace an existing file that this program did not write
img_hw = (360, 640)  # height and width of the frame that is sent through the network
n_classes = 14  # number of classes
use_res2block = False  # draw the network with Res2Net's blocks
attention = 'se'  # what weighs channels in its blocks: se, coordinate or none
large = False  # draw the large network
activation = 'relu6'  # of the network; acon has parameters of its own

ROOT = Path(__file__).resolve().parent.parent
WIDTH = 920
LEFT, ROW, HEADER = 24, 22, 26  # left edge, height of a block's row and of a card's header
BACKBONE_RIGHT, NECK_X, NECK_RIGHT, TOWERS_X = 436, 456, 610, 630
GAP, LEVEL, FIRST_LEVEL = 16, 96, 320  # space between cards; least space between the neck's levels and above them
BAR_X, BAR_WIDTH, SIGNS_X = 138, 104, 290  # in the rows of the backbone
INK, GREY, LINE, CARD, PAPER = '#1f2937', '#6b7280', '#8b93a1', '#f4f5f8', '#ffffff'
BACKGROUND = '#fcfcfd'
STEM_COLOUR, NECK, FIND, NAME = '#64748b', '#7c5cc4', '#b8630f', '#c93a73'
# What weighs the channels of a block: name of its class -> (sign, name).
ATTENTION = {
    'SqueezeExcitation': ('SE', 'squeeze-and-excitation'),
    'CoordinateAttention': ('CA', 'coordinate attention'),
}
FONT = "system-ui, -apple-system, 'Segoe UI', Roboto, 'Helvetica Neue', Arial, sans-serif"


def measure(model, img_hw):
    """Run the network on one empty frame of `img_hw` (height, width) and watch every module.

    Returns:
        dict of module name -> dict of `size` (height, width, channels of its output; None where that is no tensor),
        `macs` (multiply-adds of its convolutions: half of torch.utils.flop_counter's operations) and `parameters`.
        The name '' is the whole network.
    """
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    measures = {}
    counter = FlopCounterMode(display=False)

    def watch(name, module):
        def before(*_):
            measures[name] = {'size': None, 'macs': -counter.get_total_flops()}

        def after(_module, _inputs, output):
            entry = measures[name]
            entry['macs'] = (entry['macs'] + counter.get_total_flops()) // 2
            entry['parameters'] = sum(p.numel() for p in module.parameters())
            if isinstance(output, torch.Tensor) and output.dim() == 4:
                _, channels, height, width = output.shape
                entry['size'] = (height, width, channels)

        return module.register_forward_pre_hook(before), module.register_forward_hook(after)

    hooks = [watch(name, module) for name, module in model.named_modules()]
    with torch.no_grad(), counter:
        model.eval()([torch.zeros(3, *img_hw)])
    for before, after in hooks:
        before.remove()
        after.remove()
    return measures


def stages(model):
    """The backbone's stages -> list of (stride, [numbers of its blocks]), for blocks that follow at one stride."""
    stride = 1
    for layer in model.backbone.stem:
        stride *= layer[0].stride[0]
    result = []
    for i, block in enumerate(model.backbone.blocks):
        block_stride = convolutions(block.depthwise)[0].stride[0]
        stride *= block_stride
        if not result or block_stride > 1:
            result.append((stride, []))
        result[-1][1].append(i)
    return result


def convolutions(module):
    from torch import nn

    return [layer for layer in module.modules() if isinstance(layer, nn.Conv2d)]


def expanded_channels(block):
    """Channels inside an inverted residual: those that its projection takes."""
    return convolutions(block.project)[0].in_channels


def is_res2(block):
    from konohana.detectors.konohana.network import Res2Depthwise

    return isinstance(block.depthwise, Res2Depthwise)


def attention_of(block):
    """(sign, name) of what weighs the block's channels, or None."""
    return ATTENTION.get(type(block.squeeze).__name__)


def kernels(module):
    """'5 × 5 + 1 × 1' of a module's convolutions."""
    return ' + '.join('{} × {}'.format(*conv.kernel_size) for conv in convolutions(module))


def times(size):
    return ' × '.join(str(n) for n in size)


# The elements of the picture, as SVG text.


def text(x, y, content, size=12, fill=INK, anchor='start', weight=400):
    """Text with its baseline's start, middle or end at (x, y)."""
    return (
        f'<text x="{x:g}" y="{y:g}" font-size="{size:g}" fill="{fill}" text-anchor="{anchor}" '
        f'font-weight="{weight}">{escape(content)}</text>'
    )


def rect(x, y, width, height, fill, stroke='none', radius=6, opacity=1):
    return (
        f'<rect x="{x:g}" y="{y:g}" width="{width:g}" height="{height:g}" rx="{radius:g}" fill="{fill}" '
        f'stroke="{stroke}" fill-opacity="{opacity:g}"/>'
    )


def box(x, y, width, height, title, note, colour):
    """A layer: its title over its output's size."""
    middle = x + width / 2
    return [
        rect(x, y, width, height, PAPER, colour),
        text(middle, y + height / 2 - 3, title, 12, INK, 'middle', 600),
        text(middle, y + height / 2 + 12, note, 11, GREY, 'middle'),
    ]


def arrow(*points, head=True):
    """A line through (x, y) points with an arrow's head at the last."""
    path = ' '.join(f'{x:g},{y:g}' for x, y in points)
    marker = ' marker-end="url(#head)"' if head else ''
    return f'<polyline points="{path}" fill="none" stroke="{LINE}" stroke-width="1.5"{marker}/>'


def plus(x, y, colour=GREY):
    """The sign for a sum."""
    radius, arm = 8, 4.5
    return (
        f'<circle cx="{x:g}" cy="{y:g}" r="{radius:g}" fill="{PAPER}" stroke="{colour}" stroke-width="1.3"/>'
        f'<path d="M{x - arm:g} {y:g}H{x + arm:g}M{x:g} {y - arm:g}V{y + arm:g}" stroke="{colour}" '
        'stroke-width="1.3"/>'
    )


def bar(y, channels, colour, widest, thin=True):
    """As long as there are channels, centred in the row at y, so that the rows show the network's silhouette."""
    width = channels * BAR_WIDTH / widest
    top, height, opacity = (y + 7, 8, 1) if thin else (y + 4, 14, 0.3)
    return rect(BAR_X - width / 2, top, width, height, colour, radius=min(3, width / 2), opacity=opacity)


def chip(x, y, content):
    """A small sign, 24 wide, centred at (x, y)."""
    return rect(x - 12, y - 8, 24, 16, GREY, radius=8) + text(x, y + 4, content, 11, PAPER, 'middle', 600)


def smaller(x, y, stride=2):
    """The sign for a stride: an arrow down and its number."""
    return (
        rect(x - 12, y - 8, 24, 16, PAPER, GREY, 8)
        + f'<path d="M{x - 4:g} {y - 4:g}v8m-3 -3l3 3l3 -3" fill="none" stroke="{GREY}" stroke-width="1.3"/>'
        + text(x + 2, y + 4, str(stride), 11, GREY, weight=600)
    )


def blue(i, n):
    """The colour of the backbone's stage i of n, light to dark."""
    t = i / max(1, n - 1)
    return '#' + ''.join(f'{round(a + (b - a) * t):02x}' for a, b in zip((96, 165, 235), (30, 58, 138), strict=True))


def stem_row(y, layer, entry, colour, widest):
    """A line for a layer of the stem: kernel, channels, output."""
    conv = layer[0]
    tags = [smaller(SIGNS_X, y + 11, conv.stride[0])] if conv.stride[0] > 1 else []
    return [
        text(40, y + 15, kernels(layer)),
        bar(y, conv.out_channels, colour, widest),
        text(264, y + 15, str(conv.out_channels), anchor='end'),
        *tags,
        text(424, y + 15, times(entry['size']), anchor='end'),
    ]


def block_row(y, block, entry, colour, widest):
    """A line for an inverted residual: kernel, expanded and final channels as bars and numbers, signs, output."""
    expanded, depthwise = expanded_channels(block), convolutions(block.depthwise)[0]
    channels = convolutions(block.project)[0].out_channels
    out = [
        text(40, y + 15, '{} × {}'.format(*depthwise.kernel_size)),
        bar(y, expanded, colour, widest, thin=False),
    ]
    if is_res2(block):
        width = expanded * BAR_WIDTH / widest
        for k in (-1, 0, 1):
            out.append(rect(BAR_X + k * width / 4 - 1, y + 3, 2, 16, CARD, radius=0))
    out += [
        bar(y, channels, colour, widest),
        text(224, y + 15, str(expanded), anchor='end'),
        arrow((228, y + 11), (238, y + 11)),
        text(264, y + 15, str(channels), anchor='end'),
    ]
    if depthwise.stride[0] > 1:
        out.append(smaller(SIGNS_X, y + 11))
    if block.residual:
        out.append(plus(SIGNS_X, y + 11))
    if attention_of(block):
        out.append(chip(SIGNS_X + 28, y + 11, attention_of(block)[0]))
    return [*out, text(424, y + 15, times(entry['size']), anchor='end')]


def card(y, title, note, rows, colour):
    """The ground of a group of rows."""
    height = HEADER + ROW * rows + 6
    return [
        rect(LEFT, y, BACKBONE_RIGHT - LEFT, height, CARD),
        rect(LEFT, y, 5, height, colour, radius=2.5),
        text(40, y + 18, title, 12.5, INK, weight=700),
        text(424, y + 18, note, 11, GREY, 'end'),
    ]


def anatomy(x, y, res2, attention):
    """How a block of the backbone works, and what the signs mean; about 130 high.

    attention: (sign, name), or None where no block has any.
    """
    out = [text(x, y, 'One block of the backbone (inverted residual)', 12.5, blue(1, 2), weight=700)]
    middle = y + 32
    steps = (
        ('1 × 1', 'expand', 76),
        ('k × k', 'Res2' if res2 else 'depthwise', 76),
        *([(attention[0], 'weigh channels', 94)] if attention else []),
        ('1 × 1', 'project', 76),
    )
    left = x
    for i, (title, note, width) in enumerate(steps):
        out += box(left, middle - 18, width, 36, title, note, blue(0, 2))
        left += width
        out.append(arrow((left, middle), (left + (16 if i < len(steps) - 1 else 18), middle)))
        left += 16
    below = middle + 28
    skip = arrow((x - 6, middle), (x - 6, below), (left + 12, below), (left + 12, middle + 8))
    out.append(f'<g stroke-dasharray="4 3">{skip}</g>')
    out.append(arrow((x - 14, middle), (x, middle)))
    out.append(plus(left + 12, middle))
    out.append(arrow((left + 20, middle), (left + 34, middle)))
    # What the signs mean.
    first, second = middle + 50, middle + 72
    column = x + 216
    out += [smaller(x + 4, first - 4), text(x + 24, first, 'divides height and width', 11.5, GREY)]
    out += [plus(column + 4, first - 4), text(column + 24, first, 'adds its own input (dashed)', 11.5, GREY)]
    if attention:
        out += [chip(x + 4, second - 4, attention[0]), text(x + 24, second, attention[1], 11.5, GREY)]
    out.append(rect(column - 8, second - 11, 24, 14, blue(0, 2), radius=3, opacity=0.35))
    if res2:
        out += [rect(column - 8 + 6 * k - 1, second - 12, 2, 16, BACKGROUND, radius=0) for k in (1, 2, 3)]
    out.append(rect(column - 3, second - 8, 14, 8, blue(0, 2), radius=3))
    note = 'channels: in four groups, out' if res2 else 'channels: expanded, out'
    return [*out, text(column + 24, second, note, 11.5, GREY)]


def tower(x, y, width, height, title, question, name, layer, outputs, measures, colour, model):
    """A tower's layers from top to bottom, its last convolution and what comes out of it.

    outputs: list of (title, note, height of the box).
    """
    middle = x + width / 2
    out = [
        rect(x, y, width, height, colour, radius=8, opacity=0.09),
        text(middle, y + 19, title, 12.5, colour, 'middle', 700),
        text(middle, y + 34, question, 11, GREY, 'middle'),
    ]
    y += 46
    steps = [f'{name}.{i}' for i in range(len(model.get_submodule(name)))] + [layer]
    for i, step in enumerate(steps):
        if i:
            out.append(arrow((middle, y - 12), (middle, y)))
        module = model.get_submodule(step)
        out.append(f'<g class="layer" id="{step}">{hint(step, measures)}')
        out += box(x + 8, y, width - 16, 38, kernels(module), times(measures[step]['size']), colour)
        out.append('</g>')
        y += 50
    out.append(arrow((middle, y - 12), (middle, y)))
    for output, note, share in outputs:
        out.append(rect(x + 8, y, width - 16, share, colour))
        out.append(text(middle, y + share / 2 - 2, output, 12, PAPER, 'middle', 700))
        out.append(text(middle, y + share / 2 + 12, note, 11, PAPER, 'middle'))
        y += share + 4
    return out


def hint(name, measures):
    """The tooltip of a layer in a browser."""
    entry = measures[name]
    return f'<title>{name}: {entry["macs"]:,} multiply-adds, {entry["parameters"]:,} parameters</title>'


def shares(x, y, parts, total):
    """The parts' shares of multiply-adds and parameters, as bars. parts: list of (title, entries, colour)."""
    out = [
        text(x, y, 'What each part costs', 12.5, INK, weight=700),
        text(x + 76, y + 20, 'multiply-adds', 11, GREY),
        text(x + 170, y + 20, 'parameters', 11, GREY),
    ]
    fractions = [
        [sum(e[key] for e in entries) / total[key] for key in ('macs', 'parameters')] for _, entries, _ in parts
    ]
    scale = 56 / max(map(max, fractions))
    for i, ((title, _, colour), pair) in enumerate(zip(parts, fractions, strict=True)):
        baseline = y + 40 + 20 * i
        out.append(text(x, baseline, title, 12, INK))
        for left, fraction in zip((x + 76, x + 170), pair, strict=True):
            out.append(rect(left, baseline - 10, max(1, fraction * scale), 12, colour, radius=2))
            percent = f'{100 * fraction:.0f} %' if fraction >= 0.01 else '< 1 %'
            out.append(text(left + max(1, fraction * scale) + 5, baseline, percent, 11, GREY))
    return out


def draw_backbone(model, img_hw, measures):
    """The stem's card, then one for each stride.

    Returns:
        (elements, parts for `shares`, heights of the rows whose outputs the neck takes, the last card's lower edge).
        The heights are those of the finest map first.
    """
    from konohana.detectors.konohana.network import FEATURES

    groups, blocks = stages(model), model.backbone.blocks
    widest = max(expanded_channels(block) for block in blocks)
    out = []
    y = 112
    out.append(rect(LEFT, y, 176, 26, INK, radius=13))
    out.append(text(LEFT + 88, y + 17.5, f'frame {times((*img_hw, 3))}', 12, BACKGROUND, 'middle', 600))
    out.append(arrow((LEFT + 88, y + 26), (LEFT + 88, y + 46)))
    out.append(text(40, y + 41, 'kernel', 11, GREY))
    out.append(text(238, y + 41, 'channels', 11, GREY, 'middle'))
    out.append(text(424, y + 41, 'height × width × channels', 11, GREY, 'end'))
    y += 46
    stem = model.backbone.stem
    out += card(y, 'Stem', 'dense convolution', len(stem), STEM_COLOUR)
    for i, layer in enumerate(stem):
        name = f'backbone.stem.{i}'
        out.append(f'<g class="layer" id="{name}">{hint(name, measures)}')
        out += stem_row(y + HEADER + ROW * i, layer, measures[name], STEM_COLOUR, widest)
        out.append('</g>')
    parts = [('stem', [measures['backbone.stem']], STEM_COLOUR)]
    bottom = y + HEADER + ROW * len(stem) + 6
    taps = []
    for g, (stride, numbers) in enumerate(groups):
        colour = blue(g, len(groups))
        y = bottom + GAP
        tapped = [numbers.index(i) for i in numbers if i in FEATURES]
        if tapped:
            # The neck needs room between two of its levels, and below the legend.
            y = max(y, (taps[-1] + LEVEL if taps else FIRST_LEVEL) - HEADER - ROW * tapped[0] - 11)
        out.append(arrow((LEFT + 88, bottom), (LEFT + 88, y)))
        out += card(y, f'Stride {stride}', f'one cell is {stride} × {stride} pixels', len(numbers), colour)
        for k, i in enumerate(numbers):
            name = f'backbone.blocks.{i}'
            out.append(f'<g class="layer block" id="{name}">{hint(name, measures)}')
            out += block_row(y + HEADER + ROW * k, blocks[i], measures[name], colour, widest)
            out.append('</g>')
            if i in FEATURES:
                taps.append(y + HEADER + ROW * k + 11)
        parts.append((f'stride {stride}', [measures[f'backbone.blocks.{i}'] for i in numbers], colour))
        bottom = y + HEADER + ROW * len(numbers) + 6
    return out, parts, taps, bottom


def draw_neck(model, measures, taps):
    """The neck beside the rows at the heights `taps`: each level's sum, then its convolutions above it.

    Returns:
        (elements, the neck's upper edge, where its arrows go upwards).
    """
    out = []
    middle, neck_top = (NECK_X + NECK_RIGHT) / 2 + 16, taps[0] - 92
    out.append(rect(NECK_X, neck_top, NECK_RIGHT - NECK_X, taps[-1] + 24 - neck_top, NECK, radius=8, opacity=0.09))
    out.append(text(NECK_X + 10, neck_top + 19, 'Neck', 12.5, NECK, weight=700))
    for level, tap in reversed(list(enumerate(taps))):
        lateral, smooth = f'neck.laterals.{level}', f'neck.smooths.{level}'
        coarsest = level == len(taps) - 1
        out.append(arrow((BACKBONE_RIGHT, tap), (NECK_X + 8, tap)))
        out.append(f'<g class="layer" id="{lateral}">{hint(lateral, measures)}')
        out.append(rect(NECK_X + 8, tap - 10, 44, 20, PAPER, NECK))
        out.append(text(NECK_X + 30, tap + 4, kernels(model.get_submodule(lateral)), 11.5, INK, 'middle', 600))
        out.append('</g>')
        if coarsest:
            out.append(arrow((NECK_X + 52, tap), (middle, tap), (middle, tap - 19)))
        else:
            out.append(arrow((NECK_X + 52, tap), (middle - 9, tap)))
            out.append(arrow((middle, taps[level + 1] - 57), (middle, tap + 9)))
            out.append(text(middle + 8, tap + 26, 'doubled', 11, GREY))
            out.append(arrow((middle, tap - 8), (middle, tap - 19)))
            out.append(plus(middle, tap, NECK))
        out.append(f'<g class="layer" id="{smooth}">{hint(smooth, measures)}')
        module = model.get_submodule(smooth)
        out += box(middle - 52, tap - 57, 104, 38, kernels(module), times(measures[smooth]['size']), NECK)
        out.append('</g>')
    return out, neck_top, middle


def draw_towers(model, measures, neck_top, source):
    """The two towers to the right of the neck's finest level, which is at `source` (x, y).

    Returns:
        (elements, parts for `shares`, the towers' lower edge).
    """
    width = (WIDTH - 24 - TOWERS_X - 8) / 2
    find_x, name_x = TOWERS_X + width / 2, TOWERS_X + 8 + width * 1.5
    top, line = neck_top + 8, neck_top - 14
    out = [arrow(source, (source[0], line), (find_x, line), (find_x, top))]
    out.append(arrow((find_x, line), (name_x, line), (name_x, top)))
    height = 46 + 50 * max(len(model.find_tower) + 1, len(model.name_tower) + 1) + 3 * 40 + 2 * 4 + 8
    distances = measures['find_layer']['size'][2] - 2
    findings = (('objectness', 'is a character here?', 40), ('quality', 'does the box fit?', 40))
    findings += ((f'{distances} distances', "to the box's sides", 40),)
    out += tower(
        *(TOWERS_X, top, width, height, 'Finding', 'where are characters?', 'find_tower', 'find_layer', findings),
        *(measures, FIND, model),
    )
    names = ((f'{model.n_classes} classes', 'how likely is each?', 128),)
    out += tower(
        *(TOWERS_X + width + 8, top, width, height, 'Naming', 'who is it?', 'name_tower', 'name_layer', names),
        *(measures, NAME, model),
    )
    scale = {'macs': 0, 'parameters': model.distance_scale.numel()}
    parts = [
        ('finding', [measures['find_tower'], measures['find_layer'], scale], FIND),
        ('naming', [measures['name_tower'], measures['name_layer']], NAME),
    ]
    return out, parts, top + height


def draw_title(model, img_hw, measures, bottom):
    """Title, totals, how a block works; and at `bottom` the meaning of the terms."""
    total, blocks = measures[''], model.backbone.blocks
    rows, columns, _ = measures['find_layer']['size']
    title = [
        text(LEFT, 46, 'konohana', 26, NAME, weight=700),
        text(LEFT, 68, f'finds and names characters on one map of {rows} × {columns} cells', 13, GREY),
    ]
    for x, number, note in (
        (WIDTH - 24, f'{total["macs"] / 1e9:.2f} GMAC', f'multiply-adds for a frame of {img_hw[1]} × {img_hw[0]}'),
        (WIDTH - 300, f'{total["parameters"] / 1e6:.2f} million', 'parameters'),
    ):
        title += [text(x, 46, number, 20, INK, 'end', 700), text(x, 66, note, 12, GREY, 'end')]
    attentions = [attention_of(block) for block in blocks if attention_of(block)]
    title += anatomy(NECK_X + 14, 110, any(map(is_res2, blocks)), attentions[0] if attentions else None)
    separable = kernels(model.neck.smooths[0])
    for i, (word, note) in enumerate(
        (
            (separable, 'depthwise convolution (each channel by itself), then one across channels'),
            ('linear', 'without an activation function'),
            ('result', 'each cell proposes one box with one class; NMS keeps the best of those that overlap'),
        )
    ):
        title.append(text(LEFT, bottom + 30 + 19 * i, word, 11.5, INK, weight=600))
        title.append(text(LEFT + 96, bottom + 30 + 19 * i, note, 11.5, GREY))
    return title


def draw(model, img_hw):
    """The text of an SVG picture of a `Konohana` on frames of `img_hw` (height, width)."""
    measures = measure(model, img_hw)
    total = measures['']
    backbone, parts, taps, bottom = draw_backbone(model, img_hw, measures)
    neck, neck_top, middle = draw_neck(model, measures, taps)
    towers, tower_parts, y = draw_towers(model, measures, neck_top, (middle, taps[0] - 57))
    parts += [('neck', [measures['neck']], NECK), *tower_parts]
    y += 34
    bottom = max(bottom, taps[-1] + 24)
    height = max(bottom + 90, y + 20 + 20 * len(parts) + 36)
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height:g}" width="{WIDTH}" '
        f'height="{height:g}" font-family="{FONT}" role="img">',
        '<title>Structure of the konohana detector</title>',
        f'<desc>{total["parameters"]} parameters, {total["macs"]} multiply-adds for a frame of '
        f'{img_hw[1]} x {img_hw[0]} pixels</desc>',
        '<defs><marker id="head" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="6" markerHeight="6" orient="auto">'
        f'<path d="M0 0.5L8 4L0 7.5z" fill="{LINE}"/></marker></defs>',
        rect(0.5, 0.5, WIDTH - 1, height - 1, BACKGROUND, '#d5d9e0', 12),
        *draw_title(model, img_hw, measures, bottom),
        *backbone,
        *neck,
        *towers,
        *shares(TOWERS_X, y, parts, total),
        '</svg>',
    ]
    return '\n'.join(lines) + '\n'


def main(arguments=None):
    settings = read(globals(), arguments, folder=ROOT)
    require(settings, n_classes=(1, None))
    img_hw = settings.img_hw
    if not all(type(n) is int and 1 <= n <= 8192 for n in img_hw):
        raise UserError(f'img_hw={img_hw}: set two whole numbers from 1 to 8192, like (360, 640).')
    path = settings.path(settings.svg_out)
    if path.suffix.lower() != '.svg':
        raise UserError(f'svg_out={settings.svg_out}: the picture is an SVG file. Give it the ending .svg.')
    files.claim(path, [], settings.overwrite, 'svg_out')
    from konohana.detectors.konohana.detector import Konohana

    options = {name: getattr(settings, name) for name in ('use_res2block', 'attention', 'activation', 'large')}
    model = Konohana(settings.n_classes, img_hw, **options)
    files.write_text(path, draw(model, img_hw), remember=True)
    print(f'Drawn: {path}')


if __name__ == '__main__':
    run(main)
