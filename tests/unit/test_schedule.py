from itertools import pairwise

import pytest

from pipeline.training.schedule import schedule


def test_cosine_rises_in_its_share_and_falls_to_zero() -> None:
    factors = list(map(schedule("cosine", 100, warm_up=0.1), range(101)))
    assert factors[:10] == pytest.approx([0.1 * k for k in range(1, 11)])
    assert factors[10] == 1
    assert factors[55] == pytest.approx(0.5)
    assert all(late < early for early, late in pairwise(factors[10:]))
    assert 0 < factors[99] < 0.001
    assert factors[100] == 0


def test_trainings_of_few_steps() -> None:
    short = schedule("cosine", 2, warm_up=0.1)
    assert [schedule("cosine", 1)(0), short(0), short(1)] == [1, 1, 1]


def test_steps_divide_by_ten() -> None:
    factors = list(map(schedule("step", 9, drop_every=3), range(9)))
    assert factors == pytest.approx([1, 1, 1, 0.1, 0.1, 0.1, 0.01, 0.01, 0.01])
    with pytest.raises(ValueError, match="falls every 0 steps; expected 1 or more"):
        schedule("step", 9)


def test_constant_is_constant() -> None:
    assert set(map(schedule("constant", 9), range(9))) == {1.0}
