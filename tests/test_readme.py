"""The README says what is there: its commands, its files, every variable with its present default."""

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
README = (ROOT / 'README.md').read_text(encoding='utf-8')
SCRIPTS = {'T': '_train.py', 'P': '_test.py', 'V': '_test_with_video.py'}


def variables(script):
    """{name: source text of its default} of the variables at the top of a script."""
    source = (ROOT / script).read_text(encoding='utf-8')
    found = {}
    for node in ast.parse(source).body:
        if isinstance(node, ast.Assign) and node.targets[0].id.islower():
            value = node.value
            found[node.targets[0].id] = None if isinstance(value, ast.Name) else ast.literal_eval(value)
    return found


def rows():
    """Rows of the README's two tables of variables: (name, scripts, defaults)."""
    return re.findall(r'^\| `(\w+)` \| ([TPV ]+) \| (.+?) \| .+ \|$', README, re.MULTILINE)


@pytest.mark.parametrize('letter', SCRIPTS)
def test_every_variable_stands_in_both_tables_with_its_default(letter):
    wanted = variables(SCRIPTS[letter])
    assert len(wanted) > 8
    for name, default in wanted.items():
        mine = [defaults for row, letters, defaults in rows() if row == name and letter in letters.split()]
        assert len(mine) == 2, f'{name} of {SCRIPTS[letter]} stands {len(mine)} times in the tables, not twice'
        assert default is None or all(f'`{default!r}`' in defaults for defaults in mine), name


def test_the_tables_name_no_variable_that_is_gone():
    for name, letters, _ in rows():
        for letter in letters.split():
            assert name in variables(SCRIPTS[letter])


def test_overrides_in_the_commands_are_variables():
    known = {name for script in SCRIPTS.values() for name in variables(script)}
    used = re.findall(r'python (_\w+\.py)((?: \w+=\S+)*)', README)
    assert len(used) > 5
    for script, overrides in used:
        for name in re.findall(r'(\w+)=', overrides):
            assert name in variables(ROOT / script) and name in known


def test_files_the_readme_names_are_there():
    for path in re.findall(r'\]\(([\w./]+)\)', README):
        assert (ROOT / path).exists(), path
    for path in re.findall(r'`((?:konohana|tools|weights|docs|benchmarks)/[\w./]*)`', README):
        assert (ROOT / path).exists(), path
