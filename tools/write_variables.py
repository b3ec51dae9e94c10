"""Write docs/variables.md and docs/zh-CN/variables.md: python tools/write_variables.py

Both list the variables of the three scripts: name, default and meaning. The English text is the comment behind each
variable. The Chinese text is in docs/zh-CN/variables.txt; a variable without one is an error.
"""

import ast
import configparser
import importlib
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from konohana import files
from konohana.errors import UserError
from konohana.settings import read, run

check = False  # True writes nothing, but fails if a page is out of date

ROOT = Path(__file__).resolve().parent.parent
SCRIPTS = ('_train.py', '_test.py', '_test_with_video.py')
CHINESE = 'docs/zh-CN/variables.txt'
EVERY = 'every script'  # the section of CHINESE for texts that hold in all scripts
HEADINGS = 'headings'  # its section for the headings of groups

ENGLISH_HEAD = """# Variables

[中文](zh-CN/variables.md)

Each script has its variables at its top. Edit them there, or set them on the command line:

```sh
python _train.py batch_size=8 lr=5e-4
```

`python _train.py --help` prints them with their values. Relative paths start at the script's folder. Quote a value that
holds brackets, braces or spaces: `"label_names={'柚': 'Yuzu'}"`.

<!-- Written by tools/write_variables.py from the comments in the scripts: change it there. -->
"""
CHINESE_HEAD = """# 变量

[English](../variables.md)

每个脚本的变量都写在脚本开头。可以直接修改，也可以写在命令行里：

```sh
python _train.py batch_size=8 lr=5e-4
```

`python _train.py --help` 会打印所有变量和它们的值。相对路径从脚本所在的文件夹算起。
含有括号、花括号或空格的值要加引号：`"label_names={'柚': 'Yuzu'}"`。

<!-- 本页由 tools/write_variables.py 生成，文字在 docs/zh-CN/variables.txt 里。 -->
"""


def main(arguments=None):
    settings = read(globals(), arguments, folder=ROOT)
    stale = []
    for path, text in pages().items():
        if settings.check:
            stale += [] if path.is_file() and path.read_text(encoding='utf-8') == text else [path]
        else:
            files.write_text(path, text)
            print(path)
    if stale:
        names = ', '.join(str(path.relative_to(ROOT)) for path in stale)
        raise UserError(f'{names}: out of date. Run python tools/write_variables.py.')


def pages():
    """The two pages: dict of path -> text. UserError: a variable without a comment or without a Chinese text."""
    scripts = {script: variables(ROOT / script) for script in SCRIPTS}
    translate = chinese(scripts)
    return {
        ROOT / 'docs/variables.md': page(ENGLISH_HEAD, ('variable', 'default', 'meaning'), scripts, None),
        ROOT / 'docs/zh-CN/variables.md': page(CHINESE_HEAD, ('变量', '默认值', '含义'), scripts, translate),
    }


def variables(script):
    """The variables at the top of a script.

    Returns:
        list of dicts of `name`, `default` (its value), `meaning` (the comment behind it), `group` (the comment line
        above the block that it is in, or '') and `former` (its name in earlier versions, from ALIASES, or None).

    Raises:
        UserError: a variable without a comment.
    """
    source = script.read_text(encoding='utf-8')
    lines = source.splitlines()
    found, group, last = [], '', 0
    body = ast.parse(source).body
    assigned = [node for node in body if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name)]
    aliases = next((ast.literal_eval(node.value) for node in assigned if node.targets[0].id == 'ALIASES'), {})
    former = {new: old for old, new in aliases.items()}
    for node in assigned:
        name = node.targets[0].id
        if not name.islower() or name.startswith('_'):
            continue
        above = [line[1:].strip() for line in lines[last : node.lineno - 1] if line.startswith('#')]
        if above or node.lineno - 1 > last:
            group = ' '.join(above)
        last = node.end_lineno
        meaning = lines[last - 1][node.end_col_offset :].partition('#')[2].strip()
        if not meaning:
            raise UserError(f'{script}: line {last}: {name} has no comment. Describe it behind its value.')
        row = {'name': name, 'default': value_of(node.value, body), 'meaning': meaning, 'group': group}
        found.append({**row, 'former': former.get(name)})
    return found


def value_of(node, body):
    """The value of an expression that is a literal, or a name that the module imports from another."""
    if not isinstance(node, ast.Name):
        return ast.literal_eval(node)
    for statement in body:
        if isinstance(statement, ast.ImportFrom) and node.id in {alias.name for alias in statement.names}:
            return getattr(importlib.import_module(statement.module), node.id)
    raise UserError(f'{node.id}: not a value, nor a name that is imported at the top.')


def chinese(scripts):
    """The Chinese texts.

    Args:
        scripts: dict of script -> list of its variables.

    Returns:
        a function (script, section or variable's name) -> text.

    Raises:
        UserError: a text is missing, or belongs to a variable that no longer exists.
    """
    table = configparser.ConfigParser(interpolation=None, delimiters=('=',), comment_prefixes=('#',))
    table.optionxform = str
    try:
        table.read_string((ROOT / CHINESE).read_text(encoding='utf-8'))
    except configparser.Error as error:
        raise UserError(f'{CHINESE}: {" ".join(str(error).split())}') from None
    wanted = {(script, row['name']) for script, rows in scripts.items() for row in rows}
    names = {name for _, name in wanted}
    groups = {row['group'] for rows in scripts.values() for row in rows} - {''}
    text = {(section, key): value for section in table.sections() for key, value in table[section].items()}
    missing = [
        f'{name} of {script}' for script, name in sorted(wanted) if not {(script, name), (EVERY, name)} & set(text)
    ]
    missing += [f'the heading {group!r}' for group in sorted(groups) if (HEADINGS, group) not in text]
    if missing:
        raise UserError(f'{CHINESE}: there is no text for {", ".join(missing)}. Add one.')
    gone = [
        f'{key} in [{section}]' for section, key in text
        if key not in {EVERY: names, HEADINGS: groups}.get(section, {name for s, name in wanted if s == section})
    ]  # fmt: skip
    if gone:
        raise UserError(f'{CHINESE}: there is no such variable as {", ".join(gone)}. Remove it.')

    def translate(section, key):
        return text.get((section, key)) or text[EVERY, key]

    return translate


def page(head, columns, scripts, translate):
    """A page as Markdown: a section for each script, a table for each of its groups."""
    parts = [head]
    for script, rows in scripts.items():
        parts.append(f'\n## `{script}`\n')
        group = None
        for row in rows:
            if row['group'] != group:
                group = row['group']
                heading = translate(HEADINGS, group) if translate and group else group
                parts.append(f'\n### {heading[0].upper()}{heading[1:]}\n' if group else '')
                parts.append(f'\n| {" | ".join(columns)} |\n|---|---|---|\n')
            meaning = escaped(translate(script, row['name']) if translate else row['meaning'])
            if row['former']:
                meaning += f'（旧名 `{row["former"]}`）' if translate else f' (formerly `{row["former"]}`)'
            parts.append(f'| `{row["name"]}` | `{row["default"]!r}` | {meaning} |\n')
    return ''.join(parts)


def escaped(text):
    """A text for a table's cell: escapes < outside code, which would start HTML, and |, which would end the cell."""
    pieces = text.replace('|', '\\|').split('`')
    pieces[::2] = [piece.replace('<', '&lt;') for piece in pieces[::2]]
    return '`'.join(pieces)


if __name__ == '__main__':
    run(main)
