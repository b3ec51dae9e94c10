"""How people's embeddings spread: what is measured, which file is used, and what it does for a cast."""

import shutil
from types import SimpleNamespace

import numpy as np
import pytest
from conftest import PROJECT

import konohana
from konohana import checkpoint, own_cast, spread
from konohana.toy import writer


def show(n_people=12, n_pictures=12, seed=0, d=24):
    """People who differ in the last dimensions; in the first two, one and the same person changes far more."""
    rng = np.random.default_rng(seed)
    people = []
    for k in range(n_people):
        who = np.concatenate([np.zeros(2), rng.normal(0, 0.1, d - 2)])
        for _ in range(n_pictures):
            noise = np.concatenate([rng.normal(0, 0.5, 2), rng.normal(0, 0.03, d - 2)])
            people.append({'name': f'p{k}', 'embeddings': spread.unit(0.5 + who + noise).astype(np.float32)})
    return people


def model_of(path):
    return SimpleNamespace(weights_path=path)


@pytest.fixture
def weights(tmp_path):
    """A file that stands for weights, with a spread beside it."""
    path = tmp_path / 'net 花.pt'
    path.write_bytes(b'weights')
    spread.save(spread.measured([show()]), spread.path_of(path), checkpoint.hash_of(path))
    return path


def test_pictures_of_one_person_get_alike_and_others_do_not():
    even, new = spread.measured([show(), show(seed=1)]), show(seed=2)
    embeddings, names = np.stack([p['embeddings'] for p in new]), np.array([p['name'] for p in new])
    same = (names[:, None] == names) & ~np.eye(len(names), dtype=bool)
    gaps = []
    for vectors in (embeddings, even.evened(embeddings)):
        cosines = vectors @ vectors.T
        gaps.append((np.quantile(cosines[same], 0.1), np.quantile(cosines[names[:, None] != names], 0.9)))
    assert gaps[0][0] < gaps[0][1] and gaps[1][0] > gaps[1][1] + 0.2
    assert np.allclose(np.linalg.norm(even.evened(embeddings), axis=1), 1, atol=1e-5)


def test_strangers_are_not_taken_for_one_person():
    people = [{**person, 'name': 'other'} for person in show()]
    assert spread.measured([people]) is None
    known = show(seed=1)
    assert np.allclose(spread.measured([known + people]).matrix, spread.measured([known]).matrix)
    assert not np.allclose(spread.measured([known + people]).mean, spread.measured([known]).mean)
    assert spread.measured([known[:2]]) is None and spread.measured([[]]) is None
    assert np.allclose(spread.measured([known, []]).mean, spread.measured([known]).mean)


def test_few_pictures_give_a_finite_spread():
    even = spread.measured([show(n_people=1, n_pictures=3)])
    assert np.isfinite(even.matrix).all() and np.isfinite(even.evened(np.zeros((1, 24)))).all()


def test_it_is_used_with_the_weights_it_was_measured_with(weights, capsys):
    found = spread.of(model_of(weights))
    assert np.allclose(found.matrix, spread.measured([show()]).matrix, atol=1e-3)
    assert spread.of(SimpleNamespace(weights_path=None)) is None and capsys.readouterr().out == ''
    graph = SimpleNamespace(weights_path=weights.with_suffix('.onnx'), about={'weights': checkpoint.hash_of(weights)})
    assert np.array_equal(spread.of(graph).matrix, found.matrix)
    weights.write_bytes(b'other weights')
    assert spread.of(model_of(weights)) is None
    said = capsys.readouterr().out
    assert said.count('\n') == 1 and 'other weights' in said and 'measure_spread.py' in said


def test_an_exported_file_does_not_know_the_weights_that_it_is_of(weights, capsys):
    exported = weights.with_suffix('.onnx')
    exported.write_bytes(b'of tools/export_onnx.py')
    model = model_of(exported)
    assert spread.of(model) is None and 'other weights' in capsys.readouterr().out
    spread.save(spread.measured([show()]), spread.path_of(exported), spread.hash_of(model))
    assert spread.of(model) is not None and capsys.readouterr().out == ''


@pytest.mark.parametrize('damage', [lambda data: b'', lambda data: data[:200], lambda data: b'PK' + data[2:99] * 2])
def test_a_damaged_one_is_a_line(weights, damage, capsys):
    file = spread.path_of(weights)
    file.write_bytes(damage(file.read_bytes()))
    assert spread.of(model_of(weights)) is None
    assert capsys.readouterr().out.count('\n') == 1


def test_numbers_that_do_not_fit_are_not_used(weights):
    for mean, matrix in ((np.zeros(8), np.eye(7)), (np.zeros(8), np.full((8, 8), np.nan)), (np.zeros(()), np.eye(8))):
        broken = spread.Spread(mean.astype(np.float32), matrix.astype(np.float32))
        spread.save(broken, spread.path_of(weights), checkpoint.hash_of(weights))
        assert spread.of(model_of(weights)) is None


def test_it_names_those_whom_the_embeddings_alone_confuse():
    even, new = spread.measured([show(), show(seed=1)]), show(seed=2)
    cast = [[(p['embeddings'][None], np.ones((1, 1))) for p in new[12 * k : 12 * k + 3]] for k in range(6)]
    rest = [(k, p['embeddings']) for k in range(12) for p in new[12 * k + 3 : 12 * k + 12]]
    embeddings, truth = np.stack([e for _, e in rest]), np.array([k for k, _ in rest])
    right = []
    for of_people in (None, even):
        likeness = own_cast.Characters(cast, of_people).likeness(embeddings, np.ones((len(truth), 1)))
        assert likeness.shape == (len(truth), 6) and np.abs(likeness).max() <= 1.0001
        named = likeness.max(axis=1) >= own_cast.THRESHOLD
        said = np.where(named, likeness.argmax(axis=1), -1)
        right.append((said == np.where(truth < 6, truth, -1)).mean())
    assert right[1] > 0.85 and right[0] < 0.5


@pytest.mark.parametrize('name', ['net.pt', 'net_det3.pt'])
def test_the_shipped_ones_are_of_the_shipped_weights(name, tmp_path):
    found = spread.of(model_of(PROJECT / 'weights' / name))
    assert found is not None and found.matrix.shape == (64, 64)
    shutil.copy(PROJECT / 'weights' / name, tmp_path / 'copy.pt')
    assert np.array_equal(spread.of(model_of(tmp_path / 'copy.pt')).matrix, found.matrix)


def test_the_tool_measures_it(tmp_path, run_script):
    path = tmp_path / 'my.pt'
    shutil.copy(PROJECT / 'weights' / 'net.pt', path)
    writer.write_voc(tmp_path / 'show', n_train=14, n_val=0, cast=3, progress=False)
    options = [f'weights={path}', f"labels_in=['{tmp_path / 'show'}']"]
    done = run_script('tools/measure_spread.py', *options)
    assert done.returncode == 0 and 'my.spread.npz' in done.stdout, done.stderr
    found = spread.of(model_of(path))
    assert not np.array_equal(found.matrix, spread.of(model_of(PROJECT / 'weights' / 'net.pt')).matrix)
    model = konohana.load(path, 'cpu')
    assert np.array_equal(spread.of(model).matrix, found.matrix)
    spread.path_of(path).write_bytes(b'mine')
    refused = run_script('tools/measure_spread.py', *options)
    assert refused.returncode == 2 and 'overwrite=True' in refused.stderr and refused.stderr.count('\n') == 1


def test_what_it_cannot_measure_is_one_line(tmp_path, run_script, weights_file):
    for options, said in (
        ([f'weights={weights_file}'], 'no second look'),
        ([f'weights={weights_file}', 'labels_in=[]'], 'labels_in'),
        ([f'weights={tmp_path / "none.pt"}'], 'no such weights file'),
    ):
        done = run_script('tools/measure_spread.py', *options)
        assert done.returncode == 2 and said in done.stderr and done.stderr.count('\n') == 1
