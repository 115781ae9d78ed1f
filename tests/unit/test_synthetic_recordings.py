"""The drawn recordings: the exact posterior against counting every way, and files that MS-TCN's readers take."""

import itertools
import json

import numpy as np
import pytest

from pipeline.synthetic_recordings import CLASSES, FPS, NUM_FEATURES, Chain, demo_chain, draw_recordings

pytestmark = pytest.mark.slow  # the fast tests of a whole minute have no room for these

TINY = Chain(
    start=np.array([0.7, 0.3, 0.0]),
    transitions=np.array([[0.0, 0.4, 0.6], [0.5, 0.0, 0.5], [1.0, 0.0, 0.0]]),
    durations=np.array([[0.2, 0.8, 0.0], [0.5, 0.25, 0.25], [0.0, 0.0, 1.0]]),
)


def ways(num_steps: int):
    """Every way to fill a recording with segments of TINY: (labels, probability); the last segment may be cut."""
    todo = [((), p, k) for k, p in enumerate(TINY.start)]
    while todo:
        labels, p, state = todo.pop()
        for d, share in enumerate(TINY.durations[state], start=1):
            filled = labels + (state,) * d
            if len(filled) >= num_steps:
                yield filled[:num_steps], p * share
            else:
                todo += [(filled, p * share * q, k) for k, q in enumerate(TINY.transitions[state])]


@pytest.mark.parametrize("num_steps", [1, 2, 3, 6])
def test_the_posterior_is_what_counting_every_way_gives(num_steps):
    log_likelihood = np.random.default_rng(num_steps).normal(size=(num_steps, 3))
    expected = np.zeros((num_steps, 3))
    for labels, p in ways(num_steps):
        weight = p * np.exp(log_likelihood[np.arange(num_steps), labels].sum())
        expected[np.arange(num_steps), labels] += weight
    expected /= expected.sum(axis=1, keepdims=True)
    np.testing.assert_allclose(TINY.posterior(log_likelihood), expected, atol=1e-12)


def test_drawn_labels_keep_the_rules():
    chain = demo_chain()
    assert chain.transitions.sum(axis=1) == pytest.approx(1)
    assert chain.durations.sum(axis=1) == pytest.approx(1)
    labels = chain.draw(5000, np.random.default_rng(0))
    runs = [(k, len(list(same))) for k, same in itertools.groupby(labels)]
    assert runs[0][0] == 0
    assert all(chain.transitions[a, b] > 0 for (a, _), (b, _) in itertools.pairwise(runs))
    assert all(chain.durations[k, d - 1] > 0 for k, d in runs[:-1])


def test_files_in_the_layout_of_ms_tcn(tmp_path):
    expected = draw_recordings(tmp_path / "a")
    draw_recordings(tmp_path / "b")
    files = sorted(path.relative_to(tmp_path / "a") for path in (tmp_path / "a").rglob("*") if path.is_file())
    assert all((tmp_path / "a" / path).read_bytes() == (tmp_path / "b" / path).read_bytes() for path in files)
    assert len(files) == 80 + 80 + 8 + 2
    assert json.loads((tmp_path / "a/expected.json").read_text()) == expected
    # Read as MS-TCN's batch_gen.py reads them.
    mapping = dict(line.split()[::-1] for line in (tmp_path / "a/mapping.txt").read_text().split("\n")[:-1])
    assert mapping == {name: str(index) for index, name in enumerate(CLASSES)}
    tested = []
    for fold in range(1, 5):
        sides = [
            (tmp_path / f"a/splits/{side}.split{fold}.bundle").read_text().split("\n")[:-1]
            for side in ("train", "test")
        ]
        assert [len(side) for side in sides] == [60, 20]
        assert not {name[:3] for name in sides[0]} & {name[:3] for name in sides[1]}
        tested += sides[1]
    assert len(set(tested)) == 80
    for name in tested:
        features = np.load(tmp_path / "a/features" / f"{name.split('.')[0]}.npy")
        labels = (tmp_path / "a/groundTruth" / name).read_text().split("\n")[:-1]
        assert features.shape == (NUM_FEATURES, len(labels))
        assert set(labels) <= set(mapping)
    assert FPS == 15


def test_what_time_is_worth(tmp_path):
    for scores in draw_recordings(tmp_path).values():
        assert scores["single_frame"]["acc"] == pytest.approx(0.61, abs=0.02)
        assert scores["whole_recording"]["acc"] >= 0.95
        assert min(scores["margin"].values()) >= 0.3
