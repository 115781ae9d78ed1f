import struct
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from pipeline.data.featurefiles import (
    bytes_to_read,
    find_layout,
    read_csv_features,
    read_features,
    read_shape,
    steps_on_grid,
)
from pipeline.data.framelabels import runs
from pipeline.data.labels import frame_labels
from pipeline.errors import DataError, RejectedVideo

pytestmark = pytest.mark.slow  # the fast tests of a whole minute have no room for these

FOLDER = Path("features")


def save(path: Path, array: np.ndarray) -> Path:
    np.save(path, array, allow_pickle=array.dtype.kind == "O")
    return path


# --- arrays


def test_both_orders_of_axes_give_the_same_numbers(tmp_path):
    values = np.random.default_rng(0).normal(size=(7, 3)).astype(np.float32)
    one, other = save(tmp_path / "a.npy", values), save(tmp_path / "b.npy", values.T)
    assert read_shape(one) == ((7, 3), "float32")
    assert read_shape(other) == ((3, 7), "float32")
    for path, codec in ((one, "npy time_first"), (other, "npy feature_first")):
        found = read_features(path, codec)
        assert found.dtype == np.float32
        assert found.flags.c_contiguous
        np.testing.assert_array_equal(found, values)


@pytest.mark.parametrize("dtype", ["float16", "float64", "int32", ">f4", "uint8"])
def test_any_kind_of_number_becomes_float32(tmp_path, dtype):
    array = np.arange(12).reshape(4, 3).astype(dtype)
    np.testing.assert_array_equal(read_features(save(tmp_path / "a.npy", array), "npy time_first"), array)
    fortran = np.asfortranarray(array)
    np.testing.assert_array_equal(read_features(save(tmp_path / "f.npy", fortran), "npy time_first"), array)


@pytest.mark.parametrize(
    ("array", "reason"),
    [
        (np.zeros(5), r"shape \(5,\); expected two axes"),
        (np.zeros((2, 3, 4)), r"shape \(2, 3, 4\); expected two axes"),
        (np.zeros((0, 3)), r"shape \(0, 3\); expected two axes, timesteps and features, neither empty"),
        (np.zeros((2, 3), complex), "values of type complex128; expected numbers"),
        (np.array([["a", "b"]]), "values of type <U1; expected numbers"),
        (np.array([[1, None]], dtype=object), "values of type object; expected numbers"),
        (np.zeros(2, dtype=[("a", "f4")]), "expected numbers"),
    ],
)
def test_arrays_that_are_no_features(tmp_path, array, reason):
    path = save(tmp_path / "a.npy", array)
    with pytest.raises(RejectedVideo, match=reason):
        read_shape(path)
    with pytest.raises(RejectedVideo, match=reason):
        read_features(path, "npy time_first")


def test_a_pickle_is_not_run(tmp_path):
    class Trap:
        def __reduce__(self):
            return (Path.touch, (tmp_path / "sprung",))

    trap = np.empty((1, 1), dtype=object)
    trap[0, 0] = Trap()
    path = save(tmp_path / "a.npy", trap)
    with pytest.raises(RejectedVideo):
        read_features(path, "npy time_first")
    assert not (tmp_path / "sprung").exists()


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "does not begin as one"),
        (b"PK\x03\x04 a zip", "does not begin as one"),
        (b"\x93NUMPY", "header cannot be read"),
        (b"\x93NUMPY\x01\x00" + struct.pack("<H", 10) + b"import os\n", "header cannot be read"),
        (b"\x93NUMPY\x01\x00" + struct.pack("<H", 60000) + b"{", "header cannot be read"),
        (b"\x93NUMPY\x09\x00" + bytes(200), "header cannot be read"),
    ],
)
def test_bytes_that_are_no_array(tmp_path, data, reason):
    (tmp_path / "a.npy").write_bytes(data)
    with pytest.raises(RejectedVideo, match=reason):
        read_shape(tmp_path / "a.npy")


def test_a_file_cut_off_is_found_from_its_header(tmp_path):
    path = save(tmp_path / "a.npy", np.zeros((10, 4), np.float32))
    data = path.read_bytes()
    path.write_bytes(data[:-3])
    with pytest.raises(RejectedVideo, match=f"cut off: {len(data) - 3} of {len(data)} bytes"):
        read_shape(path)


@pytest.mark.parametrize("value", [np.nan, np.inf, 1e300])
def test_numbers_that_are_not_finite(tmp_path, value):
    array = np.zeros((10, 4))
    array[3, 1] = array[8, 0] = value
    with pytest.raises(RejectedVideo, match="2 of 10 timesteps hold numbers that are not finite, 3 first"):
        read_features(save(tmp_path / "a.npy", array), "npy time_first")


def test_other_endings_are_no_feature_files(tmp_path):
    (tmp_path / "a.txt").write_text("1 2 3")
    with pytest.raises(RejectedVideo, match=r"expected a name that ends in \.npy or \.csv"):
        read_shape(tmp_path / "a.txt")


# --- CSV


def write(tmp_path: Path, text: str) -> Path:
    (tmp_path / "a.csv").write_text(text, encoding="utf-8")
    return tmp_path / "a.csv"


@pytest.mark.parametrize("text", ["1.0,2\n3,4.5\n", "x,y\n1,2\n\n3,4.5\n", "\ufeffx,y\r\n1,2\r\n3,4.5\r\n"])
def test_rows_are_timesteps_with_or_without_a_header(tmp_path, text):
    values, labels = read_csv_features(write(tmp_path, text), None)
    assert values.tolist() == [[1, 2], [3, 4.5]]
    assert labels == []
    assert read_features(tmp_path / "a.csv", "csv").tolist() == [[1, 2], [3, 4.5]]
    assert read_shape(tmp_path / "a.csv") == ((2, 2), "text")


@pytest.mark.parametrize("header", ["0,1,2\n", "1,2,3\n", "0, 1, 2\r\n"])
def test_a_first_row_that_counts_the_columns_names_them(tmp_path, header):
    values, _ = read_csv_features(write(tmp_path, header + "0,1,2\n5,6,7.5\n"), None)
    assert values.tolist() == [[0, 1, 2], [5, 6, 7.5]]
    assert read_shape(tmp_path / "a.csv") == ((2, 3), "text")


def test_what_pandas_writes_comes_back(tmp_path):
    values = np.random.default_rng(0).normal(size=(4, 3)).astype(np.float32)
    frame = pd.DataFrame(values)
    frame.to_csv(tmp_path / "a.csv", index=False)
    np.testing.assert_array_equal(read_features(tmp_path / "a.csv", "csv"), values)
    frame.assign(label=["up", "up", "down", ""]).to_csv(tmp_path / "a.csv", index=False)
    np.testing.assert_array_equal(read_features(tmp_path / "a.csv", "csv", "label"), values)


@pytest.mark.parametrize("row", ["0", "1", "0,2", "2,1", "0.0,1.0", "1,2,4", "2,3"])
def test_other_first_rows_of_numbers_are_timesteps(tmp_path, row):
    values, _ = read_csv_features(write(tmp_path, f"{row}\n{row}\n"), None)
    assert values.tolist() == [[float(cell) for cell in row.split(",")]] * 2


def test_the_label_column_is_no_feature(tmp_path):
    path = write(tmp_path, "x,label,y\n1,up,2\n3,,4\n5,7,6\n")
    values, labels = read_csv_features(path, "label")
    assert values.tolist() == [[1, 2], [3, 4], [5, 6]]
    assert labels == ["up", "", "7"]


@pytest.mark.parametrize(
    ("text", "column", "reason"),
    [
        ("1,2\n3\n", None, r"row 2: 1 value\(s\), but 2 in the first row; is it cut off"),
        ("1,2\n3,x\n", None, "row 2: 'x' is no number"),
        ("1,2\n3,4\n", "label", "row 1: no column 'label'; expected a header that names it"),
        ("x,y\n", None, "holds no features"),
        ("label\nup\n", "label", "holds no features"),
        ("", None, "holds no features"),
        ("1,nan\n", None, "not finite"),
        ('1,"2\n', None, "cannot be read as CSV"),
    ],
)
def test_what_a_csv_file_may_not_hold(tmp_path, text, column, reason):
    with pytest.raises(RejectedVideo, match=reason):
        read_features(write(tmp_path, text), "csv", column)


def test_memory_is_known_before_a_file_is_read(tmp_path):
    assert bytes_to_read(save(tmp_path / "a.npy", np.zeros((10, 4), np.float64))) == 10 * 4 * (8 + 4)
    assert bytes_to_read(write(tmp_path, "1.5,2\n")) == 6


# --- which axis is time


def test_the_common_size_is_the_features():
    assert find_layout(FOLDER, {"a": (2048, 90), "b": (2048, 70), "c": (2048, 80)}, "auto") == "feature_first"
    assert find_layout(FOLDER, {"a": (90, 2048), "b": (70, 2048), "c": (80, 2048)}, "auto") == "time_first"
    # One file that differs, and two of one length, decide nothing.
    assert find_layout(FOLDER, {"a": (64, 90), "b": (64, 70), "c": (64, 90), "d": (63, 95)}, "auto") == "feature_first"


@pytest.mark.parametrize("shapes", [{"a": (5, 9)}, {"a": (5, 9), "b": (5, 9)}, {"a": (5, 9), "b": (6, 8)}])
def test_where_nothing_tells_the_card_must(shapes):
    with pytest.raises(DataError, match=r"does not tell which axis is time; state features\.layout in the card"):
        find_layout(FOLDER, shapes, "auto")
    assert find_layout(FOLDER, shapes, "feature_first") == "feature_first"
    assert find_layout(FOLDER, shapes, "time_first") == "time_first"


# --- rates


@pytest.mark.parametrize("source_fps", [29.97, 30000 / 1001, 30.0, 15.0, 25.0, 23.976, 10.0, 59.94])
@pytest.mark.parametrize("divisor", [1, 2, 3, 5, 7])
def test_reduction_takes_every_nth_step_and_its_label(source_fps, divisor):
    # MS-TCN: features[:, ::n] and labels[::n]. Labels go the whole way: to seconds, and back to the grid.
    num_steps = 20_011
    rng = np.random.default_rng(0)
    numbers = np.repeat(rng.integers(0, 9, num_steps), rng.integers(1, 4, num_steps))[:num_steps]
    labels = [str(number) for number in numbers]
    steps, times = steps_on_grid(num_steps, source_fps, source_fps / divisor)
    assert steps.tolist() == list(range(0, num_steps, divisor))
    found = frame_labels(times, runs("a.npy", labels, source_fps), [str(n) for n in range(9)], None)
    assert found.tolist() == numbers[::divisor].tolist()


@pytest.mark.parametrize(("source_fps", "fps"), [(29.97, 9.99), (29.97, 14.985), (23.976, 7.992), (59.94, 19.98)])
def test_rates_as_people_write_them(source_fps, fps):
    # 9.99 is not the double next to 29.97 / 3: grid times and timesteps differ in their last bits.
    divisor = round(source_fps / fps)
    steps, times = steps_on_grid(5000, source_fps, fps)
    assert steps.tolist() == list(range(0, 5000, divisor))
    labels = [str(k // divisor % 3) for k in range(5000)]
    found = frame_labels(times, runs("a.npy", labels, source_fps), ["0", "1", "2"], None)
    assert found.tolist() == [k % 3 for k in range(len(steps))]


def test_rates_that_do_not_divide_take_the_step_before():
    steps, times = steps_on_grid(10, source_fps=30, fps=12)
    assert steps.tolist() == [0, 2, 5, 7]
    assert times.tolist() == [0, 1 / 12, 2 / 12, 3 / 12]
    labels = [str(step) for step in range(10)]
    found = frame_labels(times, runs("a.npy", labels, 30), labels, None)
    assert found.tolist() == steps.tolist()


@pytest.mark.parametrize("num_steps", [1, 2, 3, 4])
def test_the_grid_ends_with_the_features(num_steps):
    assert len(steps_on_grid(num_steps, 30, 15)[0]) == (num_steps + 1) // 2
    assert len(steps_on_grid(num_steps, 30, 0.01)[0]) == 1
