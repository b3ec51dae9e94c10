"""README and docs say what is there: commands with their variables, files, links; the Chinese pages say the same."""

import ast
import re
import shlex
from collections import Counter
from pathlib import Path

import pytest
from PIL import Image

from konohana import settings
from konohana.errors import UserError
from tools import write_variables

ROOT = Path(__file__).resolve().parent.parent
ENGLISH_ONLY = {'docs/experiments.md'}
ENGLISH = ['README.md', 'weights/README.md', *sorted(f'docs/{path.name}' for path in (ROOT / 'docs').glob('*.md'))]
PAIRS = {'README.md': 'README.zh-CN.md'}
PAIRS |= {page: page.replace('docs/', 'docs/zh-CN/') for page in ENGLISH if page.startswith('docs/')}
PAIRS = {english: chinese for english, chinese in PAIRS.items() if english not in ENGLISH_ONLY}
PAGES = [*ENGLISH, *PAIRS.values()]
COMMAND = re.compile(r'^(?:\.venv/bin/torchrun \S+|python) (\S+\.py)(.*)$', re.MULTILINE)


def text_of(page):
    return (ROOT / page).read_text(encoding='utf-8')


def blocks(page):
    """The code blocks of a page, without comments, which are in the page's own language."""
    found = re.findall(r'^```(?!python)\w*\n(.*?)^```$', text_of(page), re.MULTILINE | re.DOTALL)
    return found


def headings(page):
    """The levels of a page's headings, from top to bottom."""
    outside = re.sub(r'^```.*?^```$', '', text_of(page), flags=re.MULTILINE | re.DOTALL)
    return [len(marks) for marks in re.findall(r'^(#+) ', outside, re.MULTILINE)]


def commands():
    """(page, script, arguments) of each command in the pages."""
    inline = re.compile(r'`python (\S+\.py)([^`]*)`')
    return [
        (page, script, shlex.split(arguments))
        for page in PAGES
        for script, arguments in [
            *(found for block in blocks(page) for found in COMMAND.findall(block)),
            *inline.findall(text_of(page)),
        ]
    ]


def defaults(script):
    """The variables at the top of a script, with their values."""
    body = ast.parse((ROOT / script).read_text(encoding='utf-8')).body
    found = {'__file__': str(ROOT / script)}
    for node in body:
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name) and node.targets[0].id.islower():
            found[node.targets[0].id] = write_variables.value_of(node.value, body)
    return found


def test_the_readme_is_short():
    assert len(text_of('README.md').splitlines()) <= 150


def test_commands_name_scripts_and_variables_that_are_there():
    found = commands()
    assert len(found) > 40
    for page, script, arguments in found:
        assert (ROOT / script).is_file(), f'{page}: {script}'
        settings.read(defaults(script), [a for a in arguments if a != '--help'])


@pytest.mark.parametrize('page', PAGES)
def test_links_lead_somewhere(page):
    for target in re.findall(r'\]\(([^)\s]+)\)', text_of(page)):
        if not target.startswith('http'):
            assert ((ROOT / page).parent / target).exists(), target


@pytest.mark.parametrize('page', PAGES)
def test_files_that_are_named_are_there(page):
    for path in re.findall(r'`((?:konohana|tools|weights|docs|benchmarks)/[\w./-]*)`', text_of(page)):
        assert (ROOT / path).exists(), path


@pytest.mark.parametrize('english', PAIRS)
def test_the_chinese_page_says_the_same(english):
    chinese = PAIRS[english]
    assert headings(english) == headings(chinese)
    assert blocks(english) == blocks(chinese)
    numbers = [Counter(re.findall(r'\d+\.\d+', text_of(page))) for page in (english, chinese)]
    assert numbers[0] == numbers[1]
    rows = [re.findall(r'^\| ', text_of(page), re.MULTILINE) for page in (english, chinese)]
    assert len(rows[0]) == len(rows[1])


@pytest.mark.parametrize('english', PAIRS)
def test_the_pages_of_the_two_languages_link_to_each_other(english):
    chinese = PAIRS[english]
    for page, other in ((english, chinese), (chinese, english)):
        links = re.findall(r'\]\(([^)\s]+)\)', '\n'.join(text_of(page).splitlines()[:4]))
        assert (ROOT / other).resolve() in {((ROOT / page).parent / link).resolve() for link in links}


def test_the_readme_names_every_page():
    for readme, folder in (('README.md', 'docs'), ('README.zh-CN.md', 'docs/zh-CN')):
        for page in (ROOT / folder).glob('*.md'):
            assert f'({folder}/{page.name})' in text_of(readme), page


@pytest.mark.parametrize('page', ['docs/architecture.md', 'docs/zh-CN/architecture.md'])
def test_the_page_of_the_code_names_every_part(page):
    parts = [p.name for p in (ROOT / 'konohana').iterdir() if p.name[0] not in '_.']
    assert [name for name in sorted(parts) if f'`konohana/{name}' not in text_of(page)] == []


def test_the_readme_pictures_are_drawn(run_script, tmp_path):
    sheet, episode = tmp_path / 'sheet.jpg', tmp_path / 'episode.webp'
    small = ('seconds=0.2', 'fps=5', 'width=64')
    done = run_script('tools/draw_readme_pictures.py', f'sheet_out={sheet}', f'episode_out={episode}', *small)
    assert done.returncode == 0 and str(episode) in done.stdout, done.stderr
    with Image.open(sheet) as picture:
        assert picture.width > 2 * 640 and picture.height > 2 * 360
    with Image.open(episode) as picture:
        assert (picture.size, picture.n_frames) == ((64, 36), 3)


def test_variables_are_read_with_their_groups_defaults_and_former_names(tmp_path):
    script = tmp_path / 'script.py'
    script.write_text(
        'from konohana.cast import IGNORE_CLASS\n\n# data\nname = IGNORE_CLASS  # whom to ignore\n'
        "other = (1, 'a')  # <b> or c\n\n# running\nfast = True  # hurry | up\n\n"
        "ALIASES = {'slow': 'fast'}\nLIMIT = 3\n",
        encoding='utf-8',
    )
    rows = write_variables.variables(script)
    assert [row['name'] for row in rows] == ['name', 'other', 'fast']
    assert [row['group'] for row in rows] == ['data', 'data', 'running']
    assert [row['default'] for row in rows] == ['不计算', (1, 'a'), True]
    assert [row['former'] for row in rows] == [None, None, 'slow']
    page = write_variables.page('', ('variable', 'default', 'meaning'), {'script.py': rows}, None)
    assert "| `other` | `(1, 'a')` | &lt;b> or c |" in page
    assert r'| `fast` | `True` | hurry \| up (formerly `slow`) |' in page
    script.write_text('a = 1  # one\nb = 2\n', encoding='utf-8')
    with pytest.raises(UserError, match='line 2: b has no comment'):
        write_variables.variables(script)


def test_a_variable_without_a_chinese_text_is_an_error():
    scripts = {script: write_variables.variables(ROOT / script) for script in write_variables.SCRIPTS}
    row = {'name': 'speed_of_sound', 'default': 340, 'meaning': 'in m/s', 'group': '', 'former': None}
    with pytest.raises(UserError, match='no text for speed_of_sound of'):
        write_variables.chinese({**scripts, '_test.py': [*scripts['_test.py'], row]})
    with pytest.raises(UserError, match='no such variable as split in'):
        write_variables.chinese({**scripts, '_test.py': [r for r in scripts['_test.py'] if r['name'] != 'split']})


def test_the_pages_of_variables_are_as_the_scripts_are():
    for path, text in write_variables.pages().items():
        assert path.read_text(encoding='utf-8') == text, f'{path} is stale: run python tools/write_variables.py'
