"""The shipped weights do what the README says of them."""

import functools
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


@functools.cache
def shipped(name):
    """A shipped detector. Shared: not to be changed."""
    return konohana.load(PROJECT / 'weights' / name, device='cpu')


def metrics_of(name, folder):
    """(metrics, those at the default threshold) of shipped weights on the val split of a dataset."""
    model = shipped(name)
    (samples,), problems = read_frames(folder, ['val'], IGNORE_CLASS, progress=False)
    assert problems == []
    detections = predict_dataset(model, Frames(samples, model.class_names), progress=False)
    metrics = evaluate(samples, detections, model.class_names)
    return metrics, metrics_at_threshold(samples, detections, model.class_names, threshold=0.5)


@pytest.mark.parametrize('name', FILES)
def test_they_are_small_and_know_the_cast(name):
    assert (PROJECT / 'weights' / name).stat().st_size < 10_000_000
    model = shipped(name)
    assert set(model.class_names) == set(CLASS_NAMES) and model.img_hw == (360, 640)


@pytest.fixture(scope='module')
def toy_val(tmp_path_factory):
    """Twelve full-size frames of the toy show, of a seed that was not trained on."""
    folder = tmp_path_factory.mktemp('shipped') / 'show'
    writer.write_voc(folder, n_train=0, n_val=12, seed=77, progress=False)
    return folder


@pytest.mark.parametrize('name', FILES)
def test_they_find_and_name_the_toy_show(name, toy_val):
    metrics, at = metrics_of(name, toy_val)
    assert metrics['AP50_agnostic'] > 0.8, metrics
    assert at['f1'] > 0.8 and at['named'] > 0.7, at


@pytest.mark.parametrize('name', FILES)
def test_they_find_and_name_the_cast_in_real_frames(name, shared_data):
    metrics, at = metrics_of(name, shared_data('konohana_dataset'))
    assert not math.isnan(metrics['AP']) and metrics['AP50'] > 0.58 and metrics['AP50_agnostic'] > 0.85, metrics
    assert at['f1'] > 0.82 and at['named'] > 0.85, at
