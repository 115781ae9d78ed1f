import dataclasses

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.view import View, features_key

VIEW = View(fps=10, short_side=96, crop=80, clip_frames=16, clip_stride=8)


def test_keys_change_with_all_of_the_first_and_none_of_the_second():
    for name, value in {"fps": 12.0, "short_side": 98}.items():
        other = dataclasses.replace(VIEW, **{name: value})
        assert other.frames_key != VIEW.frames_key
    for name, value in {"crop": 64, "clip_stride": 4}.items():
        other = dataclasses.replace(VIEW, **{name: value})
        assert other.frames_key == VIEW.frames_key
    key = features_key(VIEW, "resnet18", "aa")
    assert features_key(dataclasses.replace(VIEW, crop=64), "resnet18", "aa") != key
    assert features_key(dataclasses.replace(VIEW, crops=10), "resnet18", "aa") != key
    assert features_key(dataclasses.replace(VIEW, flow="dis"), "resnet18", "aa") != key
    assert features_key(dataclasses.replace(VIEW, clip_stride=4), "resnet18", "aa") == key
    assert features_key(VIEW, "resnet34", "aa") != key
    assert features_key(VIEW, "resnet18", "ab") != key


def test_equal_values_give_equal_keys_whatever_their_type():
    assert View(10, 96, 96).frames_key == View(10.0, 96, 96).frames_key


def test_clip_starts_of_the_paper():
    assert VIEW.clip_starts(16) == [0]
    assert VIEW.clip_starts(40) == [0, 8, 16, 24]
    assert VIEW.clip_starts(41) == [0, 8, 16, 24, 25]
    assert View(10, 96, 96).clip_starts(1000) == [0]


@given(st.integers(1, 400), st.integers(1, 40), st.integers(1, 40))
def test_clips_cover_every_step_when_the_stride_is_not_longer_than_a_clip(num_steps, frames, stride):
    view = View(10, 96, 96, frames, min(stride, frames))
    starts = view.clip_starts(num_steps)
    covered = {step for start in starts for step in range(start, min(start + frames, num_steps))}
    assert covered == set(range(num_steps))
    assert starts == sorted(set(starts))


def test_refusals_name_the_value():
    with pytest.raises(ValueError, match=r"view\.short_side is 97; expected an even number"):
        View(10, 97, 96)


def test_a_view_of_features_has_no_pictures():
    view = View(15.0, 0, 0)
    assert not view.has_pictures
    assert VIEW.has_pictures
    assert features_key(view, "given", "aa") != features_key(View(7.5, 0, 0), "given", "aa")
    with pytest.raises(ValueError, match=r"view\.short_side and view\.crop are 0, .*no crops, no flow"):
        View(15.0, 0, 0, flow="dis")
