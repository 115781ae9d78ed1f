"""`lrcn runs`: what is listed in which order, how a run is named, what a comparison shows, how the best is chosen."""

import http.server
import json
import os
import re
import shutil
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from pipeline import cli
from pipeline.errors import LrcnError, TrackingError
from pipeline.inference import doctor
from pipeline.reporting.runtables import aligned, family_order, short_ids
from pipeline.runchoice import comparable, groups_of
from pipeline.trackingruns import TrackedRun, asking, find_run
from pipeline.trackingstore import shown
from tests.mlflowruns import TAGS, add_run

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore::DeprecationWarning")]
HOUR = 3_600_000


@pytest.fixture(autouse=True)
def _own_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("DVC_ROOT", raising=False)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def client(own_uri: str, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Of a database of the test's own, which the commands use too."""
    import mlflow

    monkeypatch.setenv("MLFLOW_TRACKING_URI", own_uri)
    return mlflow.MlflowClient(own_uri, own_uri)


def run(name: str, validation: float | None = 0.5, test: float | None = None, **changes: Any) -> TrackedRun:
    """A training, of `parent`, at `hour`."""
    tags = {"lrcn.kind": "training", **TAGS, **changes.pop("tags", {})}
    tags |= {"mlflow.parentRunId": changes.pop("parent")} if "parent" in changes else {}
    tags |= {key: str(changes.pop(key)) for key in ("fold", "seed", "stream", "task") if key in changes}
    metrics = {} if validation is None else {"best_val_score": validation}
    metrics |= {} if test is None else {"test/top1": test}
    started = changes.pop("hour", 0) * HOUR
    return TrackedRun(
        name.ljust(32, "0"), name, "demo", changes.pop("status", "FINISHED"), started, None, tags, {}, metrics
    )


# Which run is meant


def test_a_run_is_found_by_id_beginning_and_folder(client: Any, own_uri: str, tmp_path: Path) -> None:
    first, second = add_run(client), add_run(client, tags={"lrcn.key": "5" * 32})
    folder = tmp_path / "artifacts/demo/trainings/clip-rgb-fold1-seed0"
    folder.mkdir(parents=True)
    with asking(own_uri) as asked:
        assert find_run(asked, first).run_id == first
        length = next(n for n in range(4, 33) if first[:n] != second[:n])
        assert find_run(asked, first[:length]).experiment == "demo"
        (folder / "mlflow_run.json").write_text(json.dumps({"run_id": second, "key": "5" * 32}))
        assert find_run(asked, str(folder)).run_id == second
        # Trained while the server was away, delivered afterwards: the file has no id, the run the key.
        (folder / "mlflow_run.json").write_text(json.dumps({"run_id": None, "key": "5" * 32}))
        assert find_run(asked, str(folder / "mlflow_run.json")).run_id == second
        # Deleted in MLflow, and replaced by evaluation.
        (folder / "mlflow_run.json").write_text(json.dumps({"run_id": "0" * 32, "key": "5" * 32}))
        assert find_run(asked, str(folder)).run_id == second


@pytest.mark.parametrize(
    ("what", "reason"),
    [
        ("0123456789", "0123456789: MLflow has no such run; `lrcn runs list` shows those there are"),
        ("abc", "abc: no run; expected an id, the beginning of one"),
        ("nowhere/x", "nowhere/x: no run; expected an id"),
        ("model", "it was not tracked, or MLflow does not have it yet: `lrcn runs sync`"),
        ("damaged", r"damaged/mlflow_run.json: cannot be read \(not JSON"),
        ("empty", r"empty/mlflow_run.json: names no run"),
        ("list", r"list/mlflow_run.json: not an object of JSON"),
        ("quotes", r"quotes/mlflow_run.json: names no run"),
    ],
)
def test_what_is_no_run_is_named(client: Any, own_uri: str, tmp_path: Path, what: str, reason: str) -> None:
    add_run(client)
    texts = {"model": '{"run_id": null, "key": "77"}', "damaged": "{", "empty": "{}", "list": "[]"}
    for name, text in {**texts, "quotes": """{"run_id": "' OR 1"}"""}.items():
        (tmp_path / name).mkdir()
        (tmp_path / name / "mlflow_run.json").write_text(text)
    with pytest.raises(TrackingError, match=reason), asking(own_uri) as asked:
        find_run(asked, what)


def test_a_beginning_of_two_ids_is_refused(client: Any, own_uri: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from mlflow.store.tracking import sqlalchemy_store

    ids = iter(("abcd1" + "0" * 27, "abcd2" + "0" * 27))
    monkeypatch.setattr(sqlalchemy_store.uuid, "uuid4", lambda: type("Fixed", (), {"hex": next(ids)}))
    for name in ("a", "b"):
        client.create_run("0", tags={"lrcn.kind": "training"}, run_name=name)
    reason = r"abcd: begins the ids of 2 runs .*expected more letters"
    with pytest.raises(TrackingError, match=reason), asking(own_uri) as asked:
        find_run(asked, "abcd")


# The list


def test_children_stand_below_their_parents_and_the_newest_first() -> None:
    old, new = (
        TrackedRun(
            name.ljust(32, "0"), "demo", "demo", "FINISHED", hour * HOUR, None, {"lrcn.kind": "experiment"}, {}, {}
        )
        for name, hour in (("aa", 1), ("bb", 2))
    )
    late = run("cc", parent=old.run_id, hour=5)
    early = run("dd", parent=old.run_id, hour=3)
    alone = run("ee", parent="deleted", hour=4)
    order = family_order([early, new, alone, old, late])
    assert [(one.run_id[:2], child) for one, child in order] == [
        ("aa", False), ("cc", True), ("dd", True), ("ee", False), ("bb", False),
    ]  # fmt: skip


def test_short_ids_are_long_enough() -> None:
    ids = ["abcdefgh1" + "0" * 23, "abcdefgh2" + "0" * 23]
    runs = [TrackedRun(one, "n", "e", "FINISHED", 0, None, {}, {}, {}) for one in ids]
    assert set(short_ids(runs).values()) == {"abcdefgh1", "abcdefgh2"}
    assert set(short_ids(runs[:1]).values()) == {"abcdefgh"}


def test_columns_are_aligned_and_long_cells_cut() -> None:
    assert aligned([["a", "b"], ["long", "x" * 50]]) == ["a     b", "long  " + "x" * 39 + "…"]


def test_the_list_shows_scores_experiments_and_commits(client: Any, capsys: pytest.CaptureFixture[str]) -> None:
    parent = add_run(
        client, "demo 1e5dddf5", kind="experiment",
        metrics={"clip/rgb/top1": 0.91, "clip/rgb/top1_low": 0.85, "clip/rgb/top1_high": 0.95, "clip/rgb/ece": 0.1},
    )  # fmt: skip
    own = {"test/top1": 0.9375, "test/top1_low": 0.89375, "test/top1_high": 0.97516, "best_val_score": 0.875}
    child = add_run(client, parent=parent, metrics=own, tags={"dvc.exp": "lanky-emus"})
    client.create_run("0", run_name="somebody else's")
    assert cli.main(["runs", "list", "demo"]) == 0
    out = capsys.readouterr().out.splitlines()
    assert [line.split("  ")[0] for line in out] == ["run", parent[:8], "", child[:8]]
    assert out[1].split()[1:3] == ["demo", "1e5dddf5"]
    assert out[2].split() == ["clip,", "rgb:", "all", "folds", "0.910", "[0.850,", "0.950]"]
    assert out[3].split()[1] == "clip-rgb-fold1-seed0"
    assert out[3].split()[4:] == ["finished", "0.938", "[0.894,", "0.975]", "0.875", "lanky-emus", "c0ffee00"]
    assert cli.main(["runs", "list"]) == 0
    assert "1 run(s) that this package did not make are not listed" in capsys.readouterr().err


def test_the_list_as_json_has_an_object_a_line(client: Any, capsys: pytest.CaptureFixture[str]) -> None:
    run_id = add_run(client, metrics={"test/top1": 0.9, "best_val_score": 0.8}, started_ms=1_700_000_000_000)
    assert cli.main(["runs", "list", "--json"]) == 0
    (line,) = capsys.readouterr().out.splitlines()
    facts = json.loads(line)
    assert facts["run_id"] == run_id
    assert (facts["score_name"], facts["score"], facts["score_low"], facts["best_val_score"]) == (
        "top1",
        0.9,
        None,
        0.8,
    )
    assert (facts["started"], facts["ended"]) == ("2023-11-14T22:13:20+00:00", "2023-11-14T22:14:20+00:00")
    assert (facts["task"], facts["stream"], facts["fold"], facts["seed"]) == ("clip", "rgb", "1", "0")


def test_more_runs_than_a_page_holds_are_all_listed(
    client: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("pipeline.trackingruns.PAGE", 2)
    for number in range(5):
        add_run(client, f"run {number}")
    assert cli.main(["runs", "list", "--json"]) == 0
    assert len(capsys.readouterr().out.splitlines()) == 5


# The comparison


def test_a_comparison_shows_what_differs_and_the_difference(client: Any, capsys: pytest.CaptureFixture[str]) -> None:
    first = add_run(
        client, params={"train.lr": "0.01", "seed": "0"}, metrics={"test/top1": 0.8, "val_loss": 0.5, "lr": 0.01}
    )
    second = add_run(
        client,
        params={"train.lr": "0.1", "seed": "0"},
        metrics={"test/top1": 0.9, "val_loss": 0.4, "system/cpu": 3},
        tags={"features.key": "e" * 64},
    )
    assert cli.main(["runs", "compare", first, second]) == 0
    out = capsys.readouterr().out
    assert "parameters that differ (1 are alike)" in out
    assert [line.split() for line in out.splitlines() if "train.lr" in line] == [["train.lr", "0.01", "0.1"]]
    assert f"features.key  {'f' * 12}" in out
    assert "git.commit" not in out
    assert [line.split() for line in out.splitlines() if "test/top1" in line] == [
        ["test/top1", "0.800", "0.900", "+0.100"]
    ]
    assert "val_loss" not in out
    assert "system/cpu" not in out
    assert "do not compare" not in out


def test_one_run_is_no_comparison(client: Any, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["runs", "compare", "abcd"]) == 2
    assert "compare: abcd alone; expected two runs or more" in capsys.readouterr().err


def test_a_comparison_says_where_scores_do_not_compare(client: Any, capsys: pytest.CaptureFixture[str]) -> None:
    first, second = add_run(client), add_run(client, tags={"fold": "2"})
    assert cli.main(["runs", "compare", first, second]) == 0
    assert "tested on different videos (task, fold or tables differ)" in capsys.readouterr().out


# The choice


def test_the_best_group_has_the_best_mean_validation_whatever_the_test_says() -> None:
    runs = [
        run("a1", 0.7, 0.99, parent="A", fold=1), run("a2", 0.6, 0.99, parent="A", fold=2),
        run("b1", 0.5, 0.1, parent="B", fold=1), run("b2", 0.9, 0.2, parent="B", fold=2),
    ]  # fmt: skip
    best, other = groups_of(runs, "clip", None)
    assert [one.name for one in best.trainings] == ["b2", "b1"]
    assert (best.validation, best.test) == (pytest.approx(0.7), pytest.approx(0.15))
    assert other.test == pytest.approx(0.99)


def test_trainings_that_did_not_end_or_are_of_another_task_do_not_count() -> None:
    runs = [
        run("a", 0.5, parent="A"), run("b", 0.9, parent="B", status="KILLED"), run("c", None, parent="C"),
        run("d", 0.9, parent="D", task="frame"), run("e", 0.8, parent="E", stream="flow"),
        run("f", 0.9, parent="F", tags={"lrcn.kind": "fusion"}),
    ]  # fmt: skip
    assert [group.trainings[0].name for group in groups_of(runs, "clip", "rgb")] == ["a"]
    assert [group.trainings[0].name for group in groups_of(runs, "clip", None)] == ["e", "a"]


def test_of_a_training_made_twice_the_newest_counts() -> None:
    (group,) = groups_of([run("new", 0.5, parent="A", hour=2), run("old", 0.9, parent="A", hour=1)], "clip", None)
    assert [one.name for one in group.trainings] == ["new"]
    assert group.test is None


@pytest.mark.parametrize("change", [{"tags": {"splits.sha256": "9" * 64}}, {"fold": 2}])
def test_groups_validated_on_other_videos_are_left_out(change: dict[str, Any]) -> None:
    groups = groups_of(
        [run("old", 0.9, parent="A", hour=1, **change), run("new", 0.5, parent="B", hour=2)], "clip", None
    )
    same, others = comparable(groups)
    assert ([group.trainings[0].name for group in same], others) == (["new"], 1)


def test_best_prints_the_choice_and_the_test_score_beside_it(client: Any, capsys: pytest.CaptureFixture[str]) -> None:
    add_run(client, metrics={"best_val_score": 0.8, "test/top1": 0.95}, parent="1" * 32, tags={"dvc.exp": "tall-owls"})
    best = add_run(client, metrics={"best_val_score": 0.9, "test/top1": 0.85}, parent="2" * 32)
    assert cli.main(["runs", "best", "demo", "--task", "clip", "--stream", "rgb"]) == 0
    out = capsys.readouterr().out
    assert f"best by validation: {best} (clip-rgb-fold1-seed0); test scores chose nothing" in out
    assert [line.split()[:6] for line in out.splitlines() if line.startswith("  1.")] == [
        ["1.", "rgb", "1", "0", "0.900", "0.850"]
    ]
    assert "folds are validated on different videos" not in out


def test_best_of_nothing_says_so(client: Any, capsys: pytest.CaptureFixture[str]) -> None:
    add_run(client)
    assert cli.main(["runs", "best", "demo", "--task", "frame"]) == 2
    assert "demo: no finished training of the frame task in sqlite:" in capsys.readouterr().err
    assert cli.main(["runs", "best", "dmeo", "--task", "frame"]) == 2
    assert "no experiment 'dmeo' in MLflow; expected one of Default, demo" in capsys.readouterr().err


# What waits


def test_sync_delivers_and_says_what_is_left(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    asked: list[tuple[Path, str]] = []

    def deliver(folder: Path, uri: str) -> Sequence[str]:
        asked.append((folder, uri))
        shutil.rmtree(folder / ("1" * 32))
        return ["demo clip-rgb-fold1-seed0: delivered", "demo clip-rgb-fold2-seed0: no answer"]

    monkeypatch.setattr("pipeline.stages.runs.deliver_unsent", deliver)
    assert cli.main(["runs", "sync"]) == 0
    assert "nothing waits for delivery" in capsys.readouterr().out
    for key in ("1" * 32, "2" * 32):
        (tmp_path / "mlruns_unsent" / key / "a session").mkdir(parents=True)
    assert cli.main(["runs", "sync"]) == 1
    assert asked == [(tmp_path / "mlruns_unsent", f"sqlite:///{tmp_path}/mlflow.db")]
    assert "fold1-seed0: delivered" in capsys.readouterr().out


# MLflow that is away


@pytest.mark.parametrize(
    ("uri", "reason"),
    [
        ("off", "MLFLOW_TRACKING_URI is `off`"),
        ("sqlite:///none.db", "none.db: no such database"),
        ("http://me:secret@127.0.0.1:9", r"http://127.0.0.1:9: no answer; start the server"),
        ("htp://127.0.0.1", "htp://127.0.0.1: MLflow could not do it"),
    ],
)
@pytest.mark.parametrize("command", [["list"], ["compare", "abcd", "bcde"], ["best", "demo", "--task", "clip"]])
def test_what_cannot_be_asked_is_one_line(
    uri: str, reason: str, command: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    assert cli.main(["runs", *command]) == 2
    err = capsys.readouterr().err
    assert reason in err
    assert err.count("\n") == 1
    assert "secret" not in err


class Answering(http.server.BaseHTTPRequestHandler):
    """A web server: of MLflow at /version, or not."""

    version = b"9.9.9"

    def do_GET(self) -> None:
        self.send_response(200)
        self.end_headers()
        self.wfile.write(self.version if self.path == "/version" else b"OK")

    def log_message(self, *_: object) -> None: ...


@pytest.mark.parametrize(
    ("version", "line"),
    [
        (b"9.9.9", r"ok: http://127\.0\.0\.1:\d+: MLflow 9\.9\.9 \(here: [\d.]+\); 2 run\(s\) wait for delivery"),
        (b"<html>Not here</html>", r"BAD: http://127\.0\.0\.1:\d+ answers, but is no MLflow server.*; 2 run\(s\)"),
        (None, r"BAD: http://127\.0\.0\.1:\d+ does not answer; runs go on without it.*; 2 run\(s\) wait"),
    ],
)  # fmt: skip
def test_the_doctor_says_what_answers_and_what_waits(
    version: bytes | None, line: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for key in ("1" * 32, "2" * 32):
        (tmp_path / "mlruns_unsent" / key / "a session").mkdir(parents=True)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Answering) as server:
        monkeypatch.setattr(Answering, "version", version)
        monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://me:secret@127.0.0.1:{server.server_port}")
        if version is not None:
            threading.Thread(target=server.serve_forever, daemon=True).start()
        else:
            server.server_close()
        try:
            said = f"ok: {doctor.check_tracking()}"
        except LrcnError as error:
            said = f"BAD: {error}"
        if version is not None:
            server.shutdown()
    assert re.match(line, said)


def test_secrets_in_uris_are_not_shown() -> None:
    text = "sqlalchemy postgresql://lrcn:s3cret@db:5432/mlflow?sslmode=require&password=s3cret failed"
    assert "s3cret" not in shown(text)
    assert shown("http://me:p@ss@host/x") == "http://host/x"


def test_the_environment_is_left_as_it_was(client: Any, own_uri: str) -> None:
    with asking(own_uri):
        pass
    assert os.environ["MLFLOW_TRACKING_URI"] == own_uri
