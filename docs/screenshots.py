"""Makes every picture of docs/images/ anew, in headless Chromium: `python docs/screenshots.py REPOSITORY`.

REPOSITORY is a folder in which `make demo` has run: its report is shown, and its models label its videos. The runs on
MLflow's pages are real ones made for the purpose, 54 trainings of the drawn recordings in 6 settings, in the folder
`REPOSITORY-runs`, which is kept: removed, it is trained anew (minutes on two cores).
"""

import argparse
import io
import itertools
import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml
from PIL import Image

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))  # for the browser of the tests
from pipeline.inference.answers import output_name  # noqa: E402
from pipeline.trackingview import saved_view  # noqa: E402
from tests.end_to_end.chromium import CLICK, look_at  # noqa: E402

IMAGES = ROOT / "docs/images"
MAX_BYTES, DONE = 200_000, "all-trained"
# What one would try on the recordings, one after the other: a parent run each, with a child per fold and seed.
SETTINGS: list[dict[str, Any]] = [
    {"hidden_size": 32},
    {"hidden_size": 64},
    {"hidden_size": 64, "cell": "gru"},
    {"hidden_size": 64, "cell": "rnn"},
    {"hidden_size": 64, "lr": 0.002},
    {"hidden_size": 64, "bidirectional": False},
]
AUTHOR = ["-c", "user.name=screenshots", "-c", "user.email=screenshots@example.org"]
FOLDS, SEEDS, EPOCHS = [1, 2, 3], 3, 8  # 6 settings, each with 9 trainings: 60 runs
# The assistant's panel and the tools over each chart would cover what is to be seen.
CLOSE = '[data-component-id="mlflow.assistant.chat_panel.close"]'
TIDY = (
    f"""new Promise(done => {{
      const end = performance.now() + 8000;
      const look = () => {{
        const close = document.querySelector({CLOSE!r});
        if (close) close.click();
        return close || performance.now() > end ? setTimeout(done, 1500) : setTimeout(look, 50);
      }};
      look();
    }})""",
    "void document.head.insertAdjacentHTML('beforeend', '<style>.modebar {display: none !important}</style>')",
)
ENVIRONMENT = {
    **os.environ,
    "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
    "PYTHONPATH": str(ROOT),
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
    "GIT_CONFIG_COUNT": "1",  # who promotes
    "GIT_CONFIG_KEY_0": "user.name",
    "GIT_CONFIG_VALUE_0": "reviewer",
}


def until(condition: str, seconds: int = 30) -> str:
    """A script that ends when the condition holds, and fails when that takes too long."""
    return f"""new Promise((done, fail) => {{
      const end = performance.now() + {seconds * 1000};
      const look = () => ({condition}) ? setTimeout(done, 300) : performance.now() > end
        ? fail(new Error({condition!r})) : setTimeout(look, 50);
      look();
    }})"""


def shows(text: str) -> str:
    """A condition: the page shows this text."""
    return f"document.body.innerText.includes({text!r})"


def scroll_to(selector: str) -> str:
    """A script that brings an element to the top of the window."""
    return f"document.querySelector({selector!r}).scrollIntoView({{behavior: 'instant'}})"


def picture(name: str, page: Path | str, *scripts: str, width: int = 1280, height: int = 900) -> None:
    """Write `docs/images/NAME.png`: a page after these scripts, at most 200 KB in a palette of its own."""
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        seen = look_at(page, Path(profile), width=width, height=height, scripts=scripts, shoot=True)
    image = Image.open(io.BytesIO(seen.png)).convert("RGB")
    for colours in (256, 128, 64):
        data = io.BytesIO()
        image.quantize(colours, dither=Image.Dither.NONE).save(data, "PNG", optimize=True)
        if data.tell() <= MAX_BYTES:
            break
    else:
        raise SystemExit(f"{name}.png: {data.tell()} bytes in 64 colours; expected at most {MAX_BYTES}; show less")
    IMAGES.mkdir(exist_ok=True)
    (IMAGES / f"{name}.png").write_bytes(data.getvalue())
    print(f"docs/images/{name}.png: {data.tell() // 1024} KB")


def lrcn(folder: Path, *arguments: str, expected: tuple[int, ...] = (0,)) -> None:
    """Run a command of this checkout in a folder."""
    done = subprocess.run(
        ["lrcn", *arguments], cwd=folder, env=ENVIRONMENT, check=False, capture_output=True, text=True
    )
    if done.returncode not in expected:
        raise SystemExit(f"lrcn {' '.join(arguments)}: exit code {done.returncode}\n{done.stderr}")


def files(repository: Path) -> None:
    """The report of the demo, and the pages of results of its two models."""
    report = repository / "artifacts/demo/report.html"
    picture("report", report)
    picture("report-ladder", report, scroll_to("#clip-rgb"))
    picture("report-probe", report, scroll_to("#probe"))
    media = repository / "media/demo"
    for task, file, seconds in (("clip", "walk_in-person-01_a.mp4", 1.2), ("frame", "person-02_a.mp4", 3.2)):
        with tempfile.TemporaryDirectory() as name:
            scratch = Path(name)  # pages name files as the command did: relative to its working folder
            (scratch / "artifacts").symlink_to(repository / "artifacts")
            inbox = scratch / "inbox"
            inbox.mkdir()
            if task == "clip":
                for video in media.glob("clips/*/person-0[1-5]_a.mp4"):
                    shutil.copy(video, inbox / f"{video.parent.name}-{video.name}")
                (inbox / "cut-off.mp4").write_bytes((inbox / file).read_bytes()[:20_000])
                (inbox / "notes.mp4").write_text("no video")
            else:
                for video in media.glob("recordings/person-0[1-5]_?.mp4"):
                    shutil.copy(video, inbox)
            model = f"artifacts/demo/trainings/{task}-rgb-fold1-seed0/model"
            lrcn(scratch, "predict", "inbox", "--model", model, "--out", "answers", expected=(0, 1))
            picture(
                f"results-{task}",
                scratch / "answers/report.html",
                until("document.querySelectorAll('#rows tr').length > 5"),
                f"location.hash = '#file={output_name(f'inbox/{file}')}&t={seconds}'",
                until("document.getElementById('video').readyState == 4 && !document.getElementById('video').seeking"),
                "new Promise(done => setTimeout(done, 1500))",  # the player's wheel
            )


def train_runs(folder: Path) -> None:
    """Train and evaluate every setting in every fold with every seed, and promote one model, as DVC's stages do it."""
    folder.mkdir(parents=True)
    for name in ("configs", "datasets"):
        shutil.copytree(ROOT / name, folder / name)
    lrcn(folder, "synthesize", "--recordings")
    config = folder / "configs/recordings.yaml"
    first = yaml.safe_load(config.read_text())
    script = [sys.executable, __file__, "--stages"]
    for setting in SETTINGS:
        frame = first["train"]["frame"] | {"epochs": EPOCHS} | setting
        changed = first | {"folds": FOLDS, "num_seeds": SEEDS, "train": {"clip": None, "frame": frame}}
        changed["evaluate"] = first["evaluate"] | {"bootstrap_samples": 100}
        config.write_text(yaml.safe_dump(changed, sort_keys=False))
        for command in (["init", "--quiet"], ["add", "configs", "datasets"], ["commit", "--quiet", "-m", str(setting)]):
            subprocess.run(["git", *AUTHOR, *command], cwd=folder, check=True)
        print(f"{SEEDS * len(FOLDS)} trainings with {setting}", flush=True)
        subprocess.run(script, cwd=folder, env=ENVIRONMENT, check=True)
    (folder / DONE).touch()


def run_stages() -> None:
    """All stages of the recordings, in one process: what takes long are the imports."""
    from pipeline.stages import audit, decode, evaluate, extract, finetune, index, report, train

    config = ["--config", "configs/recordings.yaml"]
    for stage in (index, decode, audit, finetune, extract):
        stage.main(config)
    for fold, seed in itertools.product(FOLDS, range(SEEDS)):
        options = [*config, "--task", "frame", "--fold", str(fold), "--seed", str(seed)]
        train.main(options)
        evaluate.main(options)
    report.main(config)


@contextmanager
def server(folder: Path) -> Iterator[str]:
    """MLflow's pages over a folder's database, on this machine alone; gives their address."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = ["mlflow", "server", "--backend-store-uri", f"sqlite:///{folder / 'mlflow.db'}", "--workers", "1"]
    command += ["--host", "127.0.0.1", "--port", str(port)]
    with subprocess.Popen(command, cwd=folder, env=ENVIRONMENT, stderr=subprocess.DEVNULL) as process:
        try:
            address = f"http://127.0.0.1:{port}/"
            for _ in range(600):
                try:
                    urllib.request.urlopen(address + "health").close()
                    break
                except OSError:
                    time.sleep(0.2)
            else:
                raise SystemExit("MLflow's server did not answer within two minutes")
            yield address
        finally:
            process.terminate()


def mlflow_pages(runs: Path) -> None:
    """All runs in the view `scores`, the experiment's runs by setting, a chart, one run, and the registry."""
    with server(runs) as address:
        experiment = ask(address, "experiments/get-by-name?experiment_name=recordings")["experiment"]["experiment_id"]
        found = ask(address, "runs/search", {"experiment_ids": [experiment], "max_results": 1000})["runs"]
        kinds = {kind: [one for one in found if tag(one, "lrcn.kind") == kind] for kind in ("experiment", "training")}
        best = max(kinds["experiment"], key=lambda one: metric(one, "frame/rgb/acc"))
        children = [one for one in kinds["training"] if tag(one, "mlflow.parentRunId") == best["info"]["run_id"]]
        child = max(children, key=lambda one: metric(one, "best_val_score"))["info"]["run_id"]
        lrcn(runs, "promote", child, "--as", "champion")
        runs_page = f"{address}#/experiments/{experiment}/runs?workflowType=machine_learning"
        settings = ["params.`train.frame.cell`", "params.`train.frame.hidden_size`", "params.`train.frame.lr`"]
        by_setting = save_view(
            address, experiment, "settings", "tags.`lrcn.kind` = 'experiment'",
            [*settings, "params.`train.frame.bidirectional`", "metrics.`frame/rgb/acc`", "metrics.`frame/rgb/f1_50`"],
        )  # fmt: skip
        trainings = save_view(
            address, experiment, "trainings", f"tags.`mlflow.parentRunId` = '{best['info']['run_id']}'", []
        )
        ready = until("document.querySelectorAll('[role=row]').length > 2")
        picture("mlflow-settings", f"{runs_page}&viewStateShareKey={by_setting}", ready, *TIDY, width=1480, height=620)
        unfold = (  # the plus before the name, which has no name of its own
            f"{CLICK}0.13 [row-id='{best['info']['run_id']}'] [aria-colindex='2']",
            until("document.querySelectorAll('[role=row][row-id]').length > 8"),
        )
        picture(
            "mlflow-trainings", f"{runs_page}&viewStateShareKey=scores", ready, *TIDY, *unfold, width=1560, height=900
        )
        picture(
            "mlflow-chart",
            f"{runs_page}&compareRunsMode=CHART&viewStateShareKey={trainings}",
            until("document.querySelector('.js-plotly-plot')"),
            *TIDY,
            *unfold,
            type_into("input[placeholder='Search metric charts']", "^(train_loss|val_loss|val_score|test/acc)$"),
            until("document.querySelectorAll('.js-plotly-plot .scatterlayer .trace').length > 8"),
            height=1150,
        )
        own = f"{address}#/experiments/{experiment}/runs/{child}"
        picture(
            "mlflow-run", f"{own}?workflowType=machine_learning", until(shows("About this run")), *TIDY, height=1000
        )
        registry = f"{address}#/models/recordings-frame-rgb?workflowType=machine_learning"
        picture("mlflow-registry", registry, until(shows("Version 1")), *TIDY, height=620)


def ask(address: str, call: str, body: dict[str, Any] | None = None) -> dict[str, Any]:
    """One call of MLflow's REST API."""
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(f"{address}api/2.0/mlflow/{call}", data, {"Content-Type": "application/json"})
    with urllib.request.urlopen(request) as reply:
        return dict(json.load(reply))


def tag(run: dict[str, Any], name: str) -> str | None:
    """A tag of a run, as the REST API gives it."""
    return next((one["value"] for one in run["data"].get("tags", []) if one["key"] == name), None)


def metric(run: dict[str, Any], name: str) -> float:
    """A metric's last value."""
    return next((float(one["value"]) for one in run["data"].get("metrics", []) if one["key"] == name), 0.0)


def type_into(selector: str, text: str) -> str:
    """A script that types into a field of a React page, which listens to its own setter."""
    return f"""(field => {{
      Object.getOwnPropertyDescriptor(HTMLInputElement.prototype, "value").set.call(field, {text!r});
      void field.dispatchEvent(new Event("input", {{bubbles: true}}));
    }})(document.querySelector({selector!r}))"""


def save_view(address: str, experiment: str, name: str, rows: str, columns: list[str]) -> str:
    """Add a view to MLflow's menu "Views": which runs, which columns."""
    key, value = saved_view(name, columns, rows)
    ask(address, "experiments/set-experiment-tag", {"experiment_id": experiment, "key": key, "value": value})
    return name


def main() -> None:
    """Read the command line and make the pictures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("repository", type=Path, nargs="?", help="where `make demo` has run")
    parser.add_argument("--only", choices=["files", "mlflow"], help="the pages of files, or those of MLflow")
    parser.add_argument("--stages", action="store_true", help=argparse.SUPPRESS)  # in a process of its own
    options = parser.parse_args()
    if options.stages:
        run_stages()
        return
    repository = options.repository.resolve()
    if options.only != "mlflow":
        files(repository)
    if options.only != "files":
        runs = repository.with_name(f"{repository.name}-runs")
        if not runs.exists():
            train_runs(runs)
        elif not (runs / DONE).exists():
            raise SystemExit(f"{runs}: its trainings were cut off; remove the folder, they begin anew")
        mlflow_pages(runs)


if __name__ == "__main__":
    main()
