"""The commands on files that people have: good ones, broken ones, and things that are no video."""

import csv
import json
import subprocess
import sys
import time
from pathlib import Path

import pytest

from pipeline import cli
from pipeline.inference import recognizer
from pipeline.synthetic import write_video
from pipeline.video.flow import NO_FLOW
from pipeline.video.reader import RejectedVideo
from tests.conftest import square_frames, write_toy_video

pytestmark = pytest.mark.slow  # the fast tests of a whole minute have no room for these

MODEL = "artifacts/toy/trainings/clip-rgb-fold1-seed0/model"


def results(folder: str) -> dict[str, dict[str, str]]:
    with Path(folder, "results.csv").open(newline="") as file:
        return {Path(row["path"]).name: row for row in csv.DictReader(file)}


@pytest.fixture
def folder(toy) -> Path:
    """Two good clips among four that are not."""
    inbox = toy / "inbox"
    write_toy_video(inbox / "goes left.mp4", "left", 0)  # as tested: the toy knows no other grain
    write_toy_video(inbox / "sub" / "goes right.mp4", "right", 1)
    return inbox


@pytest.fixture
def bad_files(folder) -> set[str]:
    import av
    import numpy as np

    good = (folder / "goes left.mp4").read_bytes()
    (folder / "cut.mp4").write_bytes(good[: len(good) * 2 // 3])
    (folder / "empty.mp4").write_bytes(b"")
    (folder / "text.mp4").write_text("not a video\n")
    with av.open(str(folder / "sound.mp4"), "w") as container:
        stream = container.add_stream("aac", rate=8000)
        stream.layout = "mono"
        sound = av.AudioFrame.from_ndarray(np.zeros((1, 8000), np.float32), "fltp", "mono")
        sound.sample_rate = 8000
        container.mux(stream.encode(sound) + stream.encode(None))
    return {"cut.mp4", "empty.mp4", "text.mp4", "sound.mp4"}


def test_predict_labels_a_folder(folder):
    assert cli.main(["predict", str(folder), "--model", MODEL, "--out", "out"]) == 0
    found = results("out")
    assert {name: row["label"] for name, row in found.items()} == {"goes left.mp4": "left", "goes right.mp4": "right"}
    assert all(float(row["score"]) > 0.5 and row["frames"] == "11" for row in found.values())


def test_bad_files_get_a_reason_and_the_good_ones_the_same_answer_as_without_them(folder, request, capsys):
    assert cli.main(["predict", str(folder), "--model", MODEL, "--out", "alone"]) == 0
    bad = request.getfixturevalue("bad_files")
    assert cli.main(["predict", str(folder), "--model", MODEL, "--out", "mixed"]) == 1
    alone, mixed = results("alone"), results("mixed")
    assert set(mixed) == set(alone) | bad
    for name in alone:
        assert mixed[name] == alone[name]
    for name, words in {
        "cut.mp4": "index", "empty.mp4": "empty file", "text.mp4": "text", "sound.mp4": "no video stream",
    }.items():  # fmt: skip
        assert mixed[name]["status"] == "rejected"
        assert words in mixed[name]["reason"], mixed[name]["reason"]
        assert mixed[name]["label"] == ""
    printed = capsys.readouterr()
    assert "2 ok, 4 rejected" in printed.out
    assert "empty.mp4: rejected: empty file" in printed.err
    assert len(Path("mixed/predictions.jsonl").read_text().splitlines()) == 6


def test_a_second_call_does_nothing_and_a_new_file_is_done_alone(folder, monkeypatch, capsys):
    arguments = ["predict", str(folder), "--model", MODEL, "--out", "out"]
    assert cli.main(arguments) == 0
    before = {path.name: path.read_bytes() for path in Path("out").rglob("*") if path.is_file()}

    def never(*_, **__):
        raise AssertionError("a second call must not load the model")

    with monkeypatch.context() as patch:
        patch.setattr(recognizer, "load_model", never)
        assert cli.main(arguments) == 0
    assert {path.name: path.read_bytes() for path in Path("out").rglob("*") if path.is_file()} == before
    write_toy_video(folder / "third.mp4", "left", 52)
    capsys.readouterr()
    assert cli.main(arguments) == 0
    assert "3 file(s), 1 looked at now: 3 ok" in capsys.readouterr().out


def test_an_interrupted_run_goes_on_where_it_was(folder, monkeypatch, capsys):
    arguments = ["predict", str(folder), "--model", MODEL, "--out"]
    assert cli.main([*arguments, "whole"]) == 0
    real, answered = recognizer.Recognizer.answer, []

    def stop_at_second(self, path, *rest):
        if answered:
            raise KeyboardInterrupt
        answered.append(path)
        return real(self, path, *rest)

    with monkeypatch.context() as patch:
        patch.setattr(recognizer.Recognizer, "answer", stop_at_second)
        assert cli.main([*arguments, "out"]) == 130
    assert not Path("out/results.csv").exists()
    capsys.readouterr()
    assert cli.main([*arguments, "out"]) == 0
    assert "1 looked at now" in capsys.readouterr().out
    for name in ("results.csv", "predictions.jsonl", "segments.csv"):
        assert Path("out", name).read_bytes() == Path("whole", name).read_bytes()


def test_a_frame_model_writes_segments(toy):
    model = "artifacts/toy/trainings/frame-rgb-fold1-seed0/model"
    assert cli.main(["predict", "media/toy/long/g00.mp4", "--model", model, "--out", "out"]) == 0
    with Path("out/segments.csv").open(newline="") as file:
        found = list(csv.DictReader(file))
    assert [row["label"] for row in found] == ["right", "left"]
    assert float(found[0]["start_seconds"]) == pytest.approx(0.5, abs=0.31)
    assert float(found[1]["end_seconds"]) == pytest.approx(3.2, abs=0.31)


def test_predict_without_a_model_or_input_cannot_run(folder, capsys):
    assert cli.main(["predict", str(folder), "--model", "none", "--out", "out"]) == 2
    assert "lrcn predict: none: no model here" in capsys.readouterr().err
    assert cli.main(["predict", "nowhere", "--model", MODEL, "--out", "out"]) == 2
    assert "nowhere: no such file or folder" in capsys.readouterr().err
    assert cli.main(["predict", str(folder), "--model", MODEL, "--out", "inbox/goes left.mp4"]) == 2
    assert "cannot be written" in capsys.readouterr().err


def test_impossible_limits_are_found_before_anything_else(tmp_path, capsys):
    out = str(tmp_path / "out")
    for command in (
        ["check"],
        ["predict", "--model", "none", "--out", out],
        ["extract", "--backbone", "none", "--fps", "5", "--out", out],
    ):
        assert cli.main([*command, "nowhere", "--max-memory", "0"]) == 2
        printed = capsys.readouterr()
        assert printed.out == ""
        assert "limits.memory_bytes is 0" in printed.err
        assert "see --max-seconds and --max-memory" in printed.err
    assert list(tmp_path.iterdir()) == []


def test_check_says_what_each_file_is(folder, bad_files, capsys):
    assert cli.main(["check", str(folder), "--json"]) == 1
    rows = {Path(row["path"]).name: row for row in map(json.loads, capsys.readouterr().out.splitlines())}
    assert set(rows) == bad_files | {"goes left.mp4", "goes right.mp4"}
    good = rows["goes left.mp4"]
    assert (good["status"], good["num_frames"], good["width"], good["height"]) == ("ok", 11, 32, 32)
    assert good["codec"] == "h264"
    assert rows["empty.mp4"]["reason"].startswith("empty file")
    assert cli.main(["check", str(folder / "goes left.mp4")]) == 0
    assert "ok             11       32x32" in capsys.readouterr().out


def test_extract_writes_a_vector_per_frame_once(folder, bad_files, capsys):
    from safetensors.numpy import load_file

    arguments = ["extract", str(folder), "--backbone", "squeezenet1_1", "--fps", "10", "--short-side", "32"]
    arguments += ["--crop", "32", "--weights", "random", "--out", "features"]
    assert cli.main(arguments) == 1
    with Path("features/videos.csv").open(newline="") as file:
        rows = {Path(row["path"]).name: row for row in csv.DictReader(file)}
    assert len(rows) == 6
    good = rows["goes left.mp4"]
    assert (good["status"], good["num_frames"]) == ("ok", "11")
    assert load_file(f"features/{good['sha256']}.safetensors")["values"].shape == (11, 512)
    assert rows["text.mp4"]["status"] == "rejected"
    capsys.readouterr()
    assert cli.main(arguments) == 1
    assert "2 of 6 file(s) have features, 0 looked at now" in capsys.readouterr().out


def test_a_video_without_flow_is_rejected_alone_and_tried_once(folder, capsys):
    write_video(folder / "still.mp4", square_frames([9], (255, 160, 90), 5), fps=10)
    arguments = ["extract", str(folder), "--backbone", "squeezenet1_1", "--fps", "10", "--short-side", "32"]
    arguments += ["--crop", "32", "--weights", "random", "--flow", "dis", "--out", "features"]
    for num_looked_at in (3, 0):
        assert cli.main(arguments) == 1
        printed = capsys.readouterr()
        assert f"2 of 3 file(s) have features, {num_looked_at} looked at now" in printed.out
        assert f"still.mp4: rejected: {NO_FLOW}" in printed.err
        with Path("features/videos.csv").open(newline="") as file:
            rows = {Path(row["path"]).name: row for row in csv.DictReader(file)}
        assert (rows["still.mp4"]["status"], rows["still.mp4"]["reason"]) == ("rejected", NO_FLOW)
        assert [rows[name]["status"] for name in ("goes left.mp4", "goes right.mp4")] == ["ok", "ok"]
    assert len(list(Path("features").glob("*.safetensors"))) == 3


def test_help_is_quick_and_loads_nothing_heavy():
    code = (
        "import sys; from pipeline import cli; cli.main(['--help']); "
        "print(sorted({'torch', 'av', 'cv2', 'mlflow', 'numpy', 'pandas'} & set(sys.modules)))"
    )
    start = time.perf_counter()
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert time.perf_counter() - start < 5
    assert done.stdout.splitlines()[-1] == "[]"
    for command in cli.COMMANDS:
        assert f"  {command}" in done.stdout


def test_unknown_commands_and_debug(toy, capsys):
    with pytest.raises(SystemExit) as caught:
        cli.main(["pred"])
    assert caught.value.code == 2
    assert "unknown command 'pred'; expected one of predict, " in capsys.readouterr().err
    from pipeline.errors import LrcnError

    with pytest.raises(LrcnError, match="no model here"):
        cli.main(["predict", "media", "--model", "none", "--out", "out", "--debug"])


def test_doctor_finds_this_installation_in_order(toy, capsys):
    assert cli.main(["doctor"]) == 0
    printed = capsys.readouterr().out
    for word in ("python", "torch", "codecs", "torchvision", "gpu", "weights", "tracking"):
        assert f"ok    {word}" in printed, printed


def test_results_prints_the_ladder(toy, capsys):
    assert cli.main(["results", "artifacts/toy"]) == 0
    printed = capsys.readouterr().out
    assert "toy, clip task: 8 test videos, 4 groups never seen in training" in printed
    assert "played backwards, a video that was right gets the opposite action in 1.00 of the cases" in printed
    assert "toy, frame task" in printed
    own = json.loads(Path("artifacts/toy/metrics.json").read_text())
    after, before = (own["frame"]["rgb"]["calibration"][name] for name in ("ece_after", "ece_before"))
    assert f"calibration error {after:.3f}, before the temperature {before:.3f}" in printed
    assert cli.main(["results", "nowhere"]) == 2
    own["clip"]["rgb"]["calibration"] |= {
        "coverage": 0.75,
        "threshold": 0.8,
        "num_without_threshold": 2,
        "precision": 0.925,
        "precision_low": 0.9,
        "precision_high": 1,
    }
    own["frame"]["rgb"]["calibration"] |= {"precision": None, "threshold": 0.99}
    Path("artifacts/toy/metrics.json").write_text(json.dumps(own))
    assert "(background left out)" in printed
    assert cli.main(["results", "artifacts/toy"]) == 0
    printed = capsys.readouterr().out
    assert "75% of the answers are sure, and of these 0.925 [0.900, 1.000] are right (wanted: 0.9)" in printed
    assert "in 2 training(s) the validation side could not promise it, so nothing is sure there" in printed
    assert "no answer is sure: none is as confident as a precision of 0.9 takes" in printed
    own["frame"]["rgb"]["calibration"]["threshold"] = None
    own["frame"]["rgb"]["test"]["frame"]["background_class"] = -1.0
    Path("artifacts/toy/metrics.json").write_text(json.dumps(own))
    assert cli.main(["results", "artifacts/toy"]) == 0
    printed = capsys.readouterr().out
    assert "no answer is sure: no validation side is large and right enough to promise 0.9" in printed
    assert "(there is no background class)" in printed
    del own["clip"]["rgb"]["calibration"]
    Path("artifacts/toy/metrics.json").write_text(json.dumps(own))
    assert cli.main(["results", "artifacts/toy"]) == 2
    assert "written before calibration; run `dvc repro` again" in capsys.readouterr().err
    Path("artifacts/toy/metrics.json").write_text('{"clip": {"test": {}}}')
    assert cli.main(["results", "artifacts/toy"]) == 2
    assert "written before there were streams; run `dvc repro` again" in capsys.readouterr().err


def test_rejections_carry_no_path_twice(folder, bad_files):
    from pipeline.video.reader import VideoReader

    with pytest.raises(RejectedVideo) as caught:
        list(VideoReader(folder / "empty.mp4").frames(10, 32))
    assert "empty.mp4" not in str(caught.value)


def test_a_model_whose_view_was_changed_by_hand_is_refused(folder, capsys):
    path = Path(MODEL, "model.yaml")
    path.write_text(path.read_text().replace("fps: 10.0", "fps: 5.0", 1))
    assert cli.main(["predict", str(folder), "--model", MODEL, "--out", "out"]) == 2
    assert "another view" in capsys.readouterr().err


def test_one_file_whose_answer_fails_stops_no_other_and_is_tried_again(folder, monkeypatch):
    real = recognizer.Recognizer.answer

    def fails_on_left(self, path, *rest):
        if "left" in path:
            raise RuntimeError("out of memory")
        return real(self, path, *rest)

    arguments = ["predict", str(folder), "--model", MODEL, "--out", "out"]
    with monkeypatch.context() as patch:
        patch.setattr(recognizer.Recognizer, "answer", fails_on_left)
        assert cli.main(arguments) == 1
    assert results("out")["goes left.mp4"]["reason"] == "RuntimeError: out of memory"
    assert cli.main(arguments) == 0
    assert results("out")["goes left.mp4"]["label"] == "left"


def test_nothing_to_predict_is_said(toy, capsys):
    Path("hollow").mkdir()
    assert cli.main(["predict", "hollow", "--model", MODEL, "--out", "out"]) == 2
    assert "hollow: no file there" in capsys.readouterr().err
