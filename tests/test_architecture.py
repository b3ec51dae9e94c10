"""Who may import whom, and the picture of it in docs/architecture.md."""

import pytest
from conftest import PROJECT

from konohana.errors import UserError
from tools import draw_architecture

GRAPH = draw_architecture.imports(PROJECT)


def test_modules_do_not_import_one_another_in_a_circle():
    """Imports inside of functions count: they only hide a circle."""
    assert draw_architecture.find_circle(GRAPH) is None


def test_nothing_in_the_package_knows_the_scripts_variables():
    """Scripts read settings; what lies below them is given what it needs."""
    assert [module for module, needed in GRAPH.items() if '.' in module and 'konohana.settings' in needed] == []


def test_a_circle_is_found_and_named():
    graph = {'a': {'b'}, 'b': {'c', 'd'}, 'c': set(), 'd': {'b'}}
    assert draw_architecture.find_circle(graph) == ['b', 'd', 'b']
    with pytest.raises(UserError, match=r'circle: konohana\.x -> konohana\.y -> konohana\.x'):
        draw_architecture.draw(
            {'konohana.x.one': {'konohana.y'}, 'konohana.y': {'konohana.x.two'}, 'konohana.x.two': set()}
        )


def test_every_part_is_in_the_picture_and_arrows_that_others_imply_are_not():
    graph = {'_run': {'konohana.a.one', 'konohana.b'}, 'konohana.a.one': {'konohana.b'}, 'konohana.b': set()}
    picture = draw_architecture.draw(graph)
    for name in ('_run.py', 'a/', 'one', 'b.py'):
        assert f'>{name}</text>' in picture
    assert picture.count('marker-end') == 2  # _run to a, a to b; not _run to b
    assert draw_architecture.draw(dict(reversed(graph.items()))) == picture


def test_the_picture_is_as_the_code_is():
    picture = (PROJECT / 'docs' / 'architecture.svg').read_text(encoding='utf-8')
    assert picture == draw_architecture.draw(GRAPH), 'stale: run python tools/draw_architecture.py overwrite=True'
