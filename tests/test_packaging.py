"""`pip install .` takes every package, the shipped weights and all dependencies with it; nothing is built here."""

import importlib.util
import shutil
from pathlib import Path

import konohana
from konohana import files

try:
    import tomllib
except ModuleNotFoundError:  # Python 3.10, where pytest brings tomli
    import tomli as tomllib

ROOT = Path(__file__).resolve().parent.parent
PROJECT = tomllib.loads((ROOT / 'pyproject.toml').read_text(encoding='utf-8'))
SETUPTOOLS = PROJECT['tool']['setuptools']


def test_every_package_is_installed():
    folders = {file.parent.relative_to(ROOT) for file in (ROOT / 'konohana').rglob('__init__.py')}
    assert set(SETUPTOOLS['packages']) == {'.'.join(folder.parts) for folder in folders} | {'konohana.weights'}


def test_no_package_is_without_its_init_file():
    for file in (ROOT / 'konohana').rglob('*.py'):
        assert (file.parent / '__init__.py').is_file(), file


def test_files_beside_the_code_are_installed():
    patterns = SETUPTOOLS['package-data']
    for file in (ROOT / 'konohana').rglob('*'):
        package = '.'.join(file.parent.relative_to(ROOT).parts)
        if file.is_file() and file.suffix not in ('.py', '.pyc'):
            assert any(file.match(pattern) for pattern in patterns.get(package, [])), file


def test_the_shipped_weights_are_installed():
    assert SETUPTOOLS['package-dir'] == {'konohana.weights': 'weights'}
    patterns = SETUPTOOLS['package-data']['konohana.weights']
    found = {file.name for pattern in patterns for file in (ROOT / 'weights').glob(pattern) if file.name[0] != '.'}
    assert found == {f'{name}.{end}' for name in ('net', 'net_det3') for end in ('pt', 'onnx', 'spread.npz')}


def test_dependencies_stand_in_one_place():
    assert 'dependencies' not in PROJECT['project']
    (file,) = SETUPTOOLS['dynamic']['dependencies']['file']
    lines = (ROOT / file).read_text(encoding='utf-8').splitlines()
    # setuptools reads requirements, comments and empty lines there, and no options such as -r.
    assert all(line[:1] in ('', '#') or line[0].isalpha() for line in lines)
    assert any(line.startswith('torch>=') for line in lines)


def test_the_shipped_weights_are_the_default_in_a_clone_and_installed(tmp_path, monkeypatch):
    assert konohana.default_weights() == ROOT / 'weights' / 'net.pt'
    package = tmp_path / 'konohana'
    (package / 'weights').mkdir(parents=True)
    shutil.copy(files.__file__, package)
    spec = importlib.util.spec_from_file_location('installed_files', package / 'files.py')
    installed = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(installed)
    monkeypatch.setattr(files, 'shipped_folder', installed.shipped_folder)
    assert konohana.default_weights() == package / 'weights' / 'net.pt'
    assert konohana.default_weights(use_res2block=True) == package / 'weights' / 'net_det3.pt'


def test_load_without_a_path_gives_the_shipped_weights():
    model = konohana.load(device='cpu')
    assert model.img_hw == (360, 640)
    assert '柚' in model.class_names
