"""Draw the dependencies between the parts of the project: python tools/draw_architecture.py overwrite=True

The picture is made from the import statements; run this again after you change them. An arrow means "uses". Implied
arrows are left out: if A uses B and B uses C, there is no arrow from A to C.
"""

import ast
import sys
from html import escape
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from konohana import files
from konohana.errors import UserError
from konohana.settings import read, run

svg_out = 'docs/architecture.svg'  # file to write; relative paths start at the project's folder
overwrite = False  # replace an existing file that this program did not write

ROOT = Path(__file__).resolve().parent.parent
EVERYWHERE = 8  # a part without imports that this many others use is a bar below all of them, without arrows
WIDTH, MARGIN = 960, 24
LINE, HEADER, PADDING, GAP, ROW_GAP = 14, 24, 12, 18, 40  # pixels
LETTER, SMALL_LETTER = 7.4, 6.0  # mean width of a letter of names and of lists
WRAP = 24  # letters in a line of a list
INK, GREY, ARROW, PAPER, EDGE = '#1f2937', '#6b7280', '#8b93a1', '#fcfcfd', '#d5d9e0'
SCRIPT, PACKAGE, MODULE = '#fdf1e2', '#eeebfa', '#f4f5f8'
FONT = "system-ui, -apple-system, 'Segoe UI', Roboto, 'Helvetica Neue', Arial, sans-serif"


def main(arguments=None):
    settings = read(globals(), arguments, folder=ROOT)
    graph = imports(ROOT)
    circle = find_circle(graph)
    if circle:
        raise UserError(f'Modules import one another in a circle: {" -> ".join(circle)}.')
    target = settings.path(settings.svg_out)
    files.claim(target, [], settings.overwrite, 'svg_out')
    files.write_text(target, draw(graph), remember=True)
    print(f'Drawn: {target}')


def imports(root):
    """Which module imports which.

    Args:
        root: the repository's folder. Its scripts (`_train.py`, ...) and the package konohana are read.

    Returns:
        dict of module name -> set of names of the project's modules that it imports, at its top or in a function.
    """
    sources = {}
    for file in sorted([*root.glob('_t*.py'), *(root / 'konohana').rglob('*.py')]):
        parts = file.relative_to(root).with_suffix('').parts
        sources['.'.join(parts[:-1] if parts[-1] == '__init__' else parts)] = file
    graph = {}
    for name, file in sources.items():
        found = set()
        for node in ast.walk(ast.parse(file.read_text(encoding='utf-8'))):
            if isinstance(node, ast.Import):
                found |= {alias.name for alias in node.names}
            elif isinstance(node, ast.ImportFrom):
                inside = {alias.name: f'{node.module}.{alias.name}' for alias in node.names}
                found |= {whole if whole in sources else node.module for whole in inside.values()}
        graph[name] = (found & set(sources)) - {name}
    return graph


def find_circle(graph):
    """A circle in a dict of name -> names, as the list of the names on it with the first repeated; None without one."""
    done = set()

    def walk(name, path):
        if name in path:
            return [*path[path.index(name) :], name]
        if name in done:
            return None
        circles = (walk(other, [*path, name]) for other in sorted(graph[name]))
        circle = next(filter(None, circles), None)
        done.add(name)
        return circle

    return next(filter(None, (walk(name, []) for name in sorted(graph))), None)


def part_of(module):
    """The part of the picture that a module belongs to: a script, a package, or a module that is in no package."""
    return '.'.join(module.split('.')[:2])


def parts(graph):
    """The graph of modules -> the same between parts: dict of part -> set of parts that it uses."""
    uses = {part: set() for part in sorted({part_of(module) for module in graph})}
    for module, others in graph.items():
        uses[part_of(module)] |= {part_of(other) for other in others} - {part_of(module)}
    return uses


def reduced(uses):
    """The graph without arrows that a longer way implies."""

    def reach(part):
        return set().union(*({other} | reach(other) for other in uses[part]))

    return {part: {o for o in others if not any(o in reach(p) for p in others - {o})} for part, others in uses.items()}


def layers(uses):
    """dict of part -> its row from below: one above the highest part that it uses."""
    rows = {}

    def row(part):
        if part not in rows:
            rows[part] = 1 + max((row(other) for other in uses[part]), default=-1)
        return rows[part]

    for part in sorted(uses):
        row(part)
    return rows


def with_bends(uses, rows):
    """Cut arrows that pass other rows into pieces from row to row; the places between are tuples (from, to, row).

    Returns:
        (dict of place -> list of places that it is joined to, one row below; dict of place -> row)
    """
    rows, joined = dict(rows), {part: [] for part in uses}
    for part in sorted(uses):
        for other in sorted(uses[part]):
            last = part
            for row in range(rows[part] - 1, rows[other], -1):
                bend = (part, other, row)
                rows[bend], joined[bend] = row, []
                joined[last].append(bend)
                last = bend
            joined[last].append(other)
    return joined, rows


def ordered(joined, rows):
    """The places of each row from left to right, so that few arrows cross: list of rows, from below.

    Rows are sorted by the mean position of what their places are joined to, down and up by turns (Sugiyama et al. 1981,
    Methods for Visual Understanding of Hierarchical System Structures).
    """
    table = [sorted((p for p in rows if rows[p] == row), key=str) for row in range(max(rows.values()) + 1)]
    above = {place: [p for p in joined if place in joined[p]] for place in joined}

    def sort(row, neighbours):
        where = {place: (i + 0.5) / len(places) for places in table for i, place in enumerate(places)}

        def mean(place):
            others = [where[other] for other in neighbours[place]]
            return sum(others) / len(others) if others else where[place]

        table[row].sort(key=lambda place: (mean(place), str(place)))

    for _ in range(12):
        for row in range(1, len(table)):
            sort(row, joined)
        for row in range(len(table) - 2, -1, -1):
            sort(row, above)
    return table


def wrapped(names):
    """A list of names as lines of at most WRAP letters."""
    lines = ['']
    for name in names:
        text = f'{lines[-1]}, {name}' if lines[-1] else name
        if len(text) <= WRAP:
            lines[-1] = text
        else:
            lines[-1] += ','
            lines.append(name)
    return lines


def cards(graph):
    """dict of part -> (title, lines of the modules in it, colour)."""
    found = {}
    for part in sorted({part_of(module) for module in graph}):
        inside = [module[len(part) + 1 :] for module in sorted(graph) if module.startswith(f'{part}.') and '.' in part]
        packages = {name.split('.')[0] for name in inside if '.' in name}
        shown = [name for name in inside if '.' not in name and name not in packages]
        shown += [f'{name}/' for name in sorted(packages)]
        if part == 'konohana':
            found[part] = 'import konohana', [], SCRIPT
        elif '.' not in part:
            found[part] = f'{part}.py', [], SCRIPT
        elif inside:
            found[part] = part.split('.')[1] + '/', wrapped(shown), PACKAGE
        else:
            found[part] = part.split('.')[1] + '.py', [], MODULE
    return found


def size(card):
    """Width and height of a card in pixels."""
    title, lines, _ = card
    letters = max([len(title) * LETTER, *(len(line) * SMALL_LETTER for line in lines)])
    return round(letters + 2 * PADDING), HEADER + (LINE * len(lines) + PADDING // 2 if lines else 0)


def place(table, sizes):
    """Positions of all places: dict of place -> (left, top, width, height). Rows are spread over the width."""
    where, top = {}, MARGIN
    for row in reversed(table):
        widths = [sizes.get(place, (4, 0))[0] for place in row]
        height = max(sizes.get(place, (4, 0))[1] for place in row)
        space = (WIDTH - 2 * MARGIN - sum(widths)) / (len(row) + 1)
        left = MARGIN + space
        for item, width in zip(row, widths, strict=True):
            own = sizes.get(item, (4, height))[1]
            where[item] = left, top + (height - own) / 2, width, own
            left += width + space
        top += height + ROW_GAP
    return where, top - ROW_GAP


def draw(graph):
    """The picture.

    Args:
        graph: dict of module -> set of modules that it imports, without a circle between parts.

    Returns:
        SVG text. The same graph gives the same text.

    Raises:
        UserError: parts use one another in a circle.
    """
    uses = parts(graph)
    circle = find_circle(uses)
    if circle:
        raise UserError(f'Packages import one another in a circle: {" -> ".join(circle)}.')
    users = {part: sum(part in others for others in uses.values()) for part in uses}
    everywhere = sorted(part for part in uses if not uses[part] and users[part] >= EVERYWHERE)
    uses = {part: others - set(everywhere) for part, others in uses.items() if part not in everywhere}
    uses = reduced(uses)
    joined, rows = with_bends(uses, layers(uses))
    found = cards(graph)
    where, bottom = place(ordered(joined, rows), {part: size(found[part]) for part in uses})

    body = [arrow(where[a], where[b], isinstance(b, str)) for a in joined for b in joined[a]]
    body += [card(found[part], where[part]) for part in sorted(uses)]
    names = ', '.join(found[part][0] for part in everywhere)
    if everywhere:
        bar = (f'{names}: used everywhere', [], MODULE)
        body.append(card(bar, (MARGIN, bottom + ROW_GAP // 2, WIDTH - 2 * MARGIN, HEADER)))
        bottom += ROW_GAP // 2 + HEADER
    height = round(bottom + MARGIN)
    head = (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" width="{WIDTH}" height="{height}" '
        f'font-family="{escape(FONT)}">\n<title>Which part of konohana uses which</title>\n'
        f'<defs><marker id="tip" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="7" markerHeight="7" orient="auto">'
        f'<path d="M0 0.5 8 4 0 7.5z" fill="{ARROW}"/></marker></defs>\n'
        f'<rect width="{WIDTH}" height="{height}" fill="{PAPER}"/>\n'
    )
    return head + '\n'.join(body) + '\n</svg>\n'


def arrow(start, end, tip):
    """A curve from the lower edge of one place to the upper edge of another."""
    x1, y1 = start[0] + start[2] / 2, start[1] + start[3]
    x2, y2 = end[0] + end[2] / 2, end[1]
    middle = (y1 + y2) / 2
    mark = ' marker-end="url(#tip)"' if tip else ''
    path = f'M{x1:.1f} {y1:.1f}C{x1:.1f} {middle:.1f} {x2:.1f} {middle:.1f} {x2:.1f} {y2:.1f}'
    through = '' if tip else f'V{end[1] + end[3]:.1f}'
    return f'<path d="{path}{through}" fill="none" stroke="{ARROW}" stroke-width="1.2"{mark}/>'


def card(content, where):
    """A card with its title and the list of what is in it."""
    title, lines, colour = content
    left, top, width, height = where
    middle = left + width / 2
    parts = [
        f'<rect x="{left:.1f}" y="{top:.1f}" width="{width}" height="{height}" rx="6" '
        f'fill="{colour}" stroke="{EDGE}"/>',
        f'<text x="{middle:.1f}" y="{top + 16:.1f}" font-size="13" font-weight="600" fill="{INK}" '
        f'text-anchor="middle">{escape(title)}</text>',
    ]
    for i, line in enumerate(lines):
        parts.append(
            f'<text x="{middle:.1f}" y="{top + HEADER + 9 + LINE * i:.1f}" font-size="11" fill="{GREY}" '
            f'text-anchor="middle">{escape(line)}</text>'
        )
    return '\n'.join(parts)


if __name__ == '__main__':
    run(main)
