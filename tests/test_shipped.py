"""The shipped weights do what the README says of them."""

import math

import pytest
from conftest import PROJECT

import konohana
from konohana.cast import CLASS_NAMES, IGNORE_CLASS
from konohana.data.dataset import Frames
from konohana.data.reading import read_frames
from konohana.evaluation.predict import predict_dataset
from konohana.evaluation.summary import evaluate, metrics_at_threshold
from konohana.toy import writer

FILES = ('net.pt', 'net_det3.pt')


def figures_of(name, folder):
    """(figures, what is seen at the default threshold) of shipped weights on the val split of a dataset."""
    model = konohana.load(PROJECT / 'weights' / name, device='cpu')
    (frames,), problems = read_frames(folder, ['val'], IGNORE_CLASS, progress=False)
    assert problems == []
    detections = predict_dataset(model, Frames(frames, model.class_names), progress=False)
    figures = evaluate(frames, detections, model.class_names)
    return figures, metrics_at_threshold(frames, detections, model.class_names, threshold=0.5)


@pytest.mark.parametrize('name', FILES)
def test_they_are_small_and_know_the_cast(name):
    assert (PROJECT / 'weights' / name).stat().st_size < 10_000_000
    model = konohana.load(PROJECT / 'weights' / name, device='cpu')
    assert set(model.class_names) == set(CLASS_NAMES) and model.img_hw == (360, 640)


@pytest.fixture(scope='module')
def toy_val(tmp_path_factory):
    """Sixteen full-size frames of the toy show, of a seed that was not trained on."""
    folder = tmp_path_factory.mktemp('shipped') / 'show'
    writer.write_voc(folder, n_train=0, n_val=16, seed=77, progress=False)
    return folder


@pytest.mark.parametrize('name', FILES)
def test_they_find_and_name_the_toy_show(name, toy_val):
    figures, seen = figures_of(name, toy_val)
    assert figures['AP50_agnostic'] > 0.8, figures
    assert seen['f1'] > 0.8 and seen['named'] > 0.7, seen


@pytest.mark.parametrize('name', FILES)
def test_they_find_and_name_the_cast_in_real_frames(name, shared_data):
    figures, seen = figures_of(name, shared_data('konohana_dataset'))
    assert not math.isnan(figures['AP']) and figures['AP50'] > 0.58 and figures['AP50_agnostic'] > 0.85, figures
    assert seen['f1'] > 0.82 and seen['named'] > 0.85, seen
