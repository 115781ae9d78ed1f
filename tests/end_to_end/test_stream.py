"""`lrcn stream` beside `lrcn predict`, and on sources of 127.0.0.1 that break off, jump, hang and come back."""

import csv
import http.server
import json
import os
import signal
import subprocess
import sys
import threading
import time
from dataclasses import replace
from functools import partial
from pathlib import Path

import av
import cv2
import numpy as np
import pytest
import torch

from pipeline.cli import main
from pipeline.features.backbones import load_backbone, save_backbone
from pipeline.inference.recognizer import Recognizer
from pipeline.models.modelfolder import Model, ModelSpec, save_model
from pipeline.models.recurrent import RecurrentClassifier
from pipeline.video import feed as feeds
from pipeline.view import View, features_key
from tests.conftest import ROOT, square_frames
from tests.livesources import RtspServer, Server, pieces, serving
from tests.videos import write

pytestmark = pytest.mark.slow  # models, children, and sources that take their time

CLASSES = ("rest", "left", "right", "both")


def moving(num_frames: int) -> list[np.ndarray]:
    columns = np.abs((np.arange(num_frames) * 3) % 44 - 22).tolist()
    return square_frames(columns, (255, 160, 90), 7)


@pytest.fixture(scope="module")
def models(tmp_path_factory) -> Path:
    """Folders of models with random weights: frame, flow, clip, and frame-both (bidirectional)."""
    root = tmp_path_factory.mktemp("models")
    video = write(root / "a.mkv", pictures=moving(60), fps=20, options={"qp": "0"})
    backbone = load_backbone("squeezenet1_1", "random", seed=0)
    save_backbone(backbone, root / "backbone.safetensors")
    for name, task, view, longest, both in (
        ("frame", "frame", View(10, 32, 32), 0, False),
        ("flow", "frame", View(10, 32, 32, flow="farneback"), 0, False),
        ("clip", "clip", View(10, 32, 32), 8, False),
        ("frame-both", "frame", View(10, 32, 32), 0, True),
    ):
        torch.manual_seed(5)
        architecture = {
            "feature_size": backbone.feature_size, "cell": "lstm", "hidden_size": 16, "num_layers": 1,
            "bidirectional": both, "input_dropout": 0.0, "dropout": 0.0,
        }  # fmt: skip
        network = RecurrentClassifier(num_classes=4, **architecture)
        spec = ModelSpec(
            task=task, classes=CLASSES, background="rest" if task == "frame" else None, architecture=architecture,
            view=view, backbone=backbone.name, provenance={}, longest_steps=longest,
            features_key=features_key(view, backbone.name, backbone.weights_sha256),
        )  # fmt: skip
        model = Model(spec, network)
        save_model(root / name, model, root / "backbone.safetensors")
        with Recognizer.load(root / name, device="cpu") as recognizer:
            # Inputs of unit size, and a classifier with an opinion, so that labels change and scores are no quarters.
            reader = recognizer._decoders.reader(video)
            ((_, found),) = recognizer._extractor.run([("v", reader.frames(10, 32))])
        network.standardise_by([torch.from_numpy(found.values.astype(np.float32))])
        with torch.no_grad():
            network.classifier.weight *= 2
        save_model(root / name, Model(replace(spec), network), root / "backbone.safetensors")
    return root


@pytest.fixture(scope="module")
def transport(tmp_path_factory) -> list[bytes]:
    """Three seconds of MPEG-TS, a key frame every half second."""
    path = tmp_path_factory.mktemp("ts") / "a.ts"
    write(path, pictures=moving(60), fps=20, format="mpegts", options={"qp": "8", "g": "10", "bf": "0"})
    return pieces(path, 3.0)


def lines(text: str) -> list[dict]:
    return [json.loads(line) for line in text.splitlines()]


def stream(capsys, *arguments: object) -> tuple[int, list[dict], str]:
    code = main(["stream", *map(str, arguments), "--device", "cpu"])
    printed = capsys.readouterr()
    return code, lines(printed.out), printed.err


def labels(found: list[dict]) -> list[dict]:
    return [line for line in found if "label" in line]


@pytest.mark.parametrize("name", ["frame", "flow"])
def test_a_file_gets_the_labels_of_predict(models, tmp_path, capsys, name):
    pts = [k / 20 + (k > 30) * 0.35 for k in range(90)]  # a gap on the way, in which the last picture stands
    video = write(tmp_path / "a.mkv", pictures=moving(90), pts_seconds=pts)
    code, found, summary = stream(capsys, video, "--model", models / name, "--fast")
    assert code == 0
    assert found[-1] == {"event": "end", "time_seconds": pytest.approx(4.9), "reason": "the source ended"}
    with Recognizer.load(models / name, device="cpu") as recognizer:
        steps = recognizer.predict(video).timesteps
    assert [line["time_seconds"] for line in labels(found)] == pytest.approx(steps.time_seconds.round(3).tolist())
    assert [line["label"] for line in labels(found)] == [CLASSES[k] for k in steps.probabilities.argmax(axis=1)]
    assert len({line["label"] for line in labels(found)}) > 1
    scores = [line["score"] for line in labels(found)]
    np.testing.assert_allclose(scores, steps.probabilities.max(axis=1), atol=1e-4)
    assert f"stream: {len(scores)} timesteps answered, 0 dropped, lost 0 time(s); delay median" in summary


def test_windows_of_a_clip_model_are_those_of_predict(models, tmp_path, capsys):
    video = write(tmp_path / "a.mkv", pictures=moving(80), fps=20)  # 40 timesteps: windows of 8, each 4 later
    _, found, _ = stream(capsys, video, "--model", models / "clip", "--fast")
    final = [(*line["window"], line["label"], line["score"]) for line in labels(found) if line["sure"] is not None]
    main(["predict", str(video), "--model", str(models / "clip"), "--out", str(tmp_path / "out"), "--device", "cpu"])
    with (tmp_path / "out/segments.csv").open() as file:
        expected = [
            (float(row["start_seconds"]), float(row["end_seconds"]), row["label"], float(row["score"]))
            for row in csv.DictReader(file)
        ]
    assert len(final) == 9
    assert [row[:3] for row in final] == [row[:3] for row in expected]
    np.testing.assert_allclose([row[3] for row in final], [row[3] for row in expected], atol=1e-4)
    capsys.readouterr()
    _, changes, _ = stream(capsys, video, "--model", models / "clip", "--fast", "--changes")
    kept = [row for at, row in enumerate(final) if at == 0 or row[2] != final[at - 1][2]]
    assert [(*line["window"], line["label"]) for line in labels(changes)] == [row[:3] for row in kept]


def test_a_file_at_its_own_pace_and_an_overlay(models, tmp_path, capsys):
    video = write(tmp_path / "a.mkv", pictures=moving(40), fps=20)
    overlay = tmp_path / "overlay.mp4"
    begin = time.monotonic()
    code, found, _ = stream(capsys, video, "--model", models / "frame", "--overlay", overlay)
    assert time.monotonic() - begin > 1.9
    assert code == 0
    assert len(labels(found)) + labels(found)[-1]["dropped"] == 20
    with Recognizer.load(models / "frame", device="cpu") as recognizer:
        best = recognizer.predict(video).timesteps.probabilities.argmax(axis=1)
    kept = [line for line in labels(found) if not line["dropped"]]  # on a busy machine: those before the first drop
    assert [line["label"] for line in kept] == [CLASSES[k] for k in best[: len(kept)]]
    assert len({line["label"] for line in kept}) > 1
    with av.open(str(overlay)) as container:
        picture = container.streams.video[0]
        assert (picture.codec.name, picture.pix_fmt, picture.width, picture.height) == ("h264", "yuv420p", 256, 256)
        frames = list(container.decode(picture))
    assert [frame.time for frame in frames] == pytest.approx([line["time_seconds"] for line in labels(found)])
    source = cv2.resize(moving(40)[0], (256, 256)).astype(int)
    difference = np.abs(frames[0].to_ndarray(format="rgb24").astype(int) - source).mean(axis=(1, 2))
    assert difference[-8:].mean() > 3 * difference[128:224].mean()  # the strip, and the picture above it
    assert stream(capsys, video, "--model", models / "frame", "--overlay", video)[0] == 2


def test_a_full_disk_ends_the_overlay_and_not_the_answers(models, tmp_path, capsys):
    pictures = [*np.random.default_rng(0).integers(0, 256, (100, 64, 64, 3), np.uint8)]
    video = write(tmp_path / "a.mkv", pictures=pictures, fps=20)
    code, found, error = stream(capsys, video, "--model", models / "frame", "--fast", "--overlay", "/dev/full")
    assert (code, len(labels(found))) == (1, 50)
    assert "stream: no overlay from here on: /dev/full: No space left on device" in error
    assert "50 timesteps answered" in error


@pytest.mark.parametrize("scheme", ["http", "rtsp"])
def test_a_source_that_dies_and_comes_back(models, transport, capsys, monkeypatch, scheme):
    """The first connection breaks off half-way, the second is no video, the third ends and nobody is there."""
    monkeypatch.setattr(feeds, "FIRST_PAUSE_SECONDS", 0.3)
    streams = [transport[:25], [b"HTTP is not video " * 100], transport]
    with serving((RtspServer if scheme == "rtsp" else Server)(streams)) as server:
        url = f"{scheme}://me:word@127.0.0.1:{server.port}/live"
        code, found, error = stream(capsys, url, "--model", models / "frame", "--give-up", 2, "--timeout", 2)
        assert server.served == 3
    assert code == 1
    events = [line for line in found if "event" in line]
    assert [event["event"] for event in events] == ["lost", "back", "lost", "end"]
    lost, back = found.index(events[0]), found.index(events[1])
    assert back == lost + 1
    assert min(lost, len(labels(found[back:]))) > 5
    assert events[1]["state"] == "afresh"
    assert events[1]["away_seconds"] >= 0.6  # two pauses
    times = [line["time_seconds"] for line in found]
    assert times == sorted(times)
    assert found[back + 1]["time_seconds"] == events[1]["time_seconds"] > found[lost]["time_seconds"]
    assert events[-1]["reason"].startswith("given up: ")
    assert f"stream: {scheme}://127.0.0.1:{server.port}/live: given up" in error
    assert "word" not in json.dumps(found) + error


def test_motion_jpeg_has_the_times_of_arrival(models, tmp_path, capsys):
    """FFmpeg would count its pictures at 25 frames/s: 1.2 s for these 3."""
    path = tmp_path / "a.mjpeg"
    write(path, pictures=moving(30), fps=10, codec="mjpeg", pixel_format="yuvj420p", format="mpjpeg")
    served = Server([pieces(path, 3.0, packet_bytes=1)], "multipart/x-mixed-replace;boundary=ffmpeg")
    with serving(served) as server:
        url = f"http://127.0.0.1:{server.port}/"
        _, found, _ = stream(capsys, url, "--model", models / "frame", "--give-up", 0)
    assert labels(found)[-1]["time_seconds"] > 2


@pytest.mark.parametrize("name", ["a.m3u8", "a.ts"])
def test_what_comes_early_plays_at_its_own_pace(models, tmp_path, capsys, name):
    """HLS comes in pieces, a file at once: all but the newest two pictures of them would be dropped."""
    write(tmp_path / "a.ts", pictures=moving(40), fps=20, format="mpegts")
    (tmp_path / "a.m3u8").write_text("#EXTM3U\n#EXT-X-TARGETDURATION:2\n#EXTINF:2,\na.ts\n#EXT-X-ENDLIST\n")
    handler = partial(http.server.SimpleHTTPRequestHandler, directory=str(tmp_path))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        url = f"http://127.0.0.1:{server.server_port}/{name}"
        _, found, _ = stream(capsys, url, "--model", models / "frame", "--give-up", 0)
        server.shutdown()
    assert len(labels(found)) > 10
    assert labels(found)[-1]["time_seconds"] == pytest.approx(1.9)


@pytest.mark.parametrize(
    "text",
    ["#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\n{}\n#EXT-X-ENDLIST\n", "ffconcat version 1.0\nfile '{}'\n"],
)
@pytest.mark.parametrize("scheme", ["file://", ""])
def test_what_a_server_sends_opens_no_local_file(models, tmp_path, capsys, text, scheme):
    media = write(tmp_path / "secret.ts", pictures=moving(20), fps=20, format="mpegts")
    with serving(Server([[text.format(f"{scheme}{media}").encode()]], "application/vnd.apple.mpegurl")) as server:
        url = f"http://127.0.0.1:{server.port}/a.m3u8"
        code, found, error = stream(capsys, url, "--model", models / "frame", "--give-up", 0, "--timeout", 2)
    assert code == 2
    assert "given up" in error
    assert not labels(found)


def test_one_clear_line_where_nothing_can_be_followed(models, tmp_path, capsys):
    (tmp_path / "a.txt").write_text("no video\n")
    for arguments, message in (
        (("gopher://x",), "lrcn stream: gopher://x: gopher:// is not read"),
        (("93",), "lrcn stream: /dev/video93: no such camera"),
        ((tmp_path / "a.txt",), "a text file, not a video"),
        (("-", "--fast"), "lrcn stream: --fast reads a file; standard input comes as fast as it does"),
        (("-", "--timeout", "0"), "lrcn stream: --timeout is 0.0; expected a number above 0"),
        (("/dev/null",), "lrcn stream: /dev/null: given up"),
    ):
        code, _, error = stream(capsys, *arguments, "--model", models / "frame", "--give-up", "0")
        assert code == 2
        assert message in error.splitlines()[-1]
    code, found, error = stream(capsys, "/dev/zero", "--model", models / "frame-both")
    assert (code, found) == (2, [])
    assert "a bidirectional network reads a video from its end too" in error


def command(*arguments: object, **options) -> subprocess.Popen:
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        [sys.executable, "-m", "pipeline.cli", "stream", *map(str, arguments), "--device", "cpu"],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment, **options,
    )  # fmt: skip


def test_a_signal_ends_it_with_the_figures_so_far(models, tmp_path):
    video = write(tmp_path / "a.mkv", pictures=moving(2000), fps=20)
    process = command(video, "--model", models / "frame")
    first = json.loads(process.stdout.readline())
    process.send_signal(signal.SIGTERM)
    out, error = process.communicate(timeout=20)  # of a stream of 100 s
    assert first["time_seconds"] == 0.0
    assert process.returncode == 128 + signal.SIGTERM
    assert "timesteps answered" in error
    assert all(json.loads(line) for line in out.splitlines())


def test_a_stream_on_standard_input_that_hangs_and_ends(models, transport):
    process = command("-", "--model", models / "frame", "--timeout", 60, stdin=subprocess.PIPE)
    process.stdin.buffer.write(b"".join(transport[:30]))
    process.stdin.flush()
    first = json.loads(process.stdout.readline())
    out, error = process.communicate(timeout=60)  # closes its input
    assert first["label"] in CLASSES
    assert lines(out)[-1]["event"] == "end"
    assert (process.returncode, "lost 0 time(s)" in error) == (0, True)
