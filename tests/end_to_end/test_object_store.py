"""Media in an object store and behind HTTP: the same results as from a folder, whatever the server does meanwhile."""

import json
import os
import re
import shutil
import threading
import time
from pathlib import Path

import pytest

from pipeline import remote
from pipeline.cli import main
from pipeline.errors import DataError, LrcnError, StoreError
from pipeline.inference import mirror, predict
from pipeline.inference.mirror import mirrored
from pipeline.inference.recognizer import Recognizer
from pipeline.remotenames import Url
from pipeline.stages import select
from tests import servers
from tests.conftest import run_stage

pytestmark = pytest.mark.slow
MODEL = "artifacts/toy/trainings/clip-rgb-fold1-seed0/model"
TABLES = ("results.csv", "predictions.jsonl", "segments.csv")
SECRET = "not-in-any-file"


@pytest.fixture
def store(s3_server, tmp_path, monkeypatch):
    """A client of the server; the environment leads there, through nothing but itself."""
    boto3 = pytest.importorskip("boto3", reason="boto3 is not installed (extra `dev`)")
    use_server(monkeypatch, s3_server, s3_server.endpoint)
    monkeypatch.setenv("LRCN_CACHE", str(tmp_path / "cache"))
    yield boto3.client("s3")
    remote.reset()


def use_server(monkeypatch, server: servers.S3Server, endpoint: str) -> None:
    for name, value in {**server.environment, "AWS_ENDPOINT_URL": endpoint, "AWS_DEFAULT_REGION": "us-east-1"}.items():
        monkeypatch.setenv(name, value)
    remote.reset()


def upload(client, folder: Path, prefix: str, bucket: str = "team") -> str:
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            client.upload_file(str(path), bucket, f"{prefix}/{path.relative_to(folder)}")
    return f"s3://{bucket}/{prefix}/"


def make_clips(root: Path) -> Path:
    clips = root / "clips"
    for number in range(6):
        for label in ("left", "right"):
            target = clips / label / f"g{number:02d} ü.mp4"
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(f"media/toy/{label}/g{number:02d}.mp4", target)
    (clips / "broken.mp4").write_bytes(b"no video")
    data = (clips / "left/g00 ü.mp4").read_bytes()
    (clips / "cut.mp4").write_bytes(data[: len(data) // 2])
    return clips


def texts(out: Path, prefix: str) -> dict[str, str]:
    """The tables with the prefix taken out of the paths."""
    found = {}
    for name in TABLES:
        text = (out / name).read_text()
        found[name] = text.replace(prefix, "PREFIX/")
        assert "PREFIX/" in found[name]
    return found


def test_predict_from_a_bucket_is_predict_from_a_folder(toy, store, capfd):
    clips = make_clips(toy)
    prefix = upload(store, clips, "one/clips")
    assert main(["predict", "clips/", "--model", MODEL, "--out", "local"]) == 1
    assert main(["predict", prefix, "--model", MODEL, "--out", "remote", "--export", "elan"]) == 1
    said = capfd.readouterr()
    assert texts(toy / "local", "clips/") == texts(toy / "remote", prefix)
    assert "12 ok, 2 rejected" in said.out
    assert "Traceback" not in said.err
    documents = [path.read_text() for path in toy.glob("remote/exports/elan/*.eaf")]
    assert len(documents) == 12
    assert all(f'MEDIA_URL="{prefix}' in text and 'RELATIVE_MEDIA_URL="./g0' in text for text in documents)
    with Recognizer.load(MODEL) as recognizer:
        answer = recognizer.predict(f"{prefix}left/g00 ü.mp4")
        assert (answer.status, answer.label) == ("ok", "left")
        assert recognizer.predict(f"{prefix}none.mp4").reason == "no such object"
    # Nothing is fetched again for files that look as they did.
    before = sorted(path.stat().st_atime_ns for path in (Path(os.environ["LRCN_CACHE"]) / "media").iterdir())
    assert main(["predict", prefix, "--model", MODEL, "--out", "remote"]) == 1
    assert ", 0 looked at now" in capfd.readouterr().out
    assert sorted(path.stat().st_atime_ns for path in (Path(os.environ["LRCN_CACHE"]) / "media").iterdir()) == before
    # One that was exchanged is answered for again, and no other.
    store.upload_file(str(clips / "right/g00 ü.mp4"), "team", "one/clips/left/g01 ü.mp4")
    assert main(["predict", prefix, "--model", MODEL, "--out", "remote"]) == 1
    assert ", 1 looked at now" in capfd.readouterr().out
    # No secret is written or said.
    for path in [*toy.glob("remote/**/*"), *Path(os.environ["LRCN_CACHE"]).glob("**/*")]:
        assert not path.is_file() or SECRET.encode() not in path.read_bytes(), path
    assert SECRET not in said.out + said.err


def test_a_server_that_is_away_for_five_seconds_costs_retries_and_no_result(toy, store, s3_server, monkeypatch, capfd):
    prefix = upload(store, make_clips(toy), "two/clips")
    assert main(["predict", "clips/", "--model", MODEL, "--out", "local"]) == 1
    with servers.Proxy(s3_server.endpoint) as proxy:
        use_server(monkeypatch, s3_server, proxy.endpoint)
        fetched = remote.fetched
        count = []

        def fetched_until_it_dies(path: str):
            count.append(path)
            if len(count) == 4:
                proxy.away()
                threading.Timer(5.0, proxy.back).start()
            return fetched(path)

        monkeypatch.setattr(remote, "fetched", fetched_until_it_dies)
        begin = time.monotonic()
        assert main(["predict", prefix, "--model", MODEL, "--out", "remote"]) == 1
    assert time.monotonic() - begin > 5
    assert texts(toy / "local", "clips/") == texts(toy / "remote", prefix)
    assert SECRET not in "".join(capfd.readouterr())


def test_extract_and_check_read_a_bucket(toy, store, capfd):
    prefix = upload(store, make_clips(toy), "three/clips")
    common = ["--backbone", "squeezenet1_1", "--weights", str(random_weights(toy)), "--fps", "5", "--short-side", "32"]
    common += ["--crop", "32"]
    assert main(["extract", "clips", *common, "--out", "local"]) == 1
    assert main(["extract", prefix, *common, "--out", "remote"]) == 1
    local, found = ({path.name: path.read_bytes() for path in (toy / n).iterdir()} for n in ("local", "remote"))
    assert local.pop("videos.csv").replace(b"clips/", b"P/") == found.pop("videos.csv").replace(prefix.encode(), b"P/")
    assert local == found
    assert len(found) > 12
    capfd.readouterr()
    assert main(["check", "--json", "clips/"]) == 1
    expected = [json.loads(line) for line in capfd.readouterr().out.splitlines()]
    assert main(["check", "--json", prefix]) == 1
    lines = [json.loads(line) for line in capfd.readouterr().out.splitlines()]
    assert [{**line, "path": line["path"].removeprefix(prefix)} for line in lines] == [
        {**line, "path": line["path"].removeprefix("clips/")} for line in expected
    ]


def random_weights(root: Path) -> Path:
    import torch
    import torchvision

    torch.manual_seed(0)
    path = root / "weights.pth"
    torch.save(torchvision.models.squeezenet1_1(weights=None).state_dict(), path)
    return path


def test_http_with_a_password_and_a_signature(toy, store, capfd):
    clips = make_clips(toy)
    (clips / "left/g00 ü.mp4").rename(clips / "plain.mp4")
    (clips / "left/g01 ü.mp4").rename(clips / "flaky.mp4")
    with servers.http_server(clips, {"/flaky.mp4": [503, 0, 503]}) as (address, seen):
        host = address.partition("://")[2]
        names = [
            f"http://me:pass-{SECRET}@{host}/plain.mp4",
            f"{address}/flaky.mp4?id=5&X-Amz-Signature={SECRET}&X-Amz-Expires=60",
            f"{address}/broken.mp4",
            f"{address}/nothing.mp4",
        ]
        Path("list.txt").write_text("\n".join(names))
        assert main(["predict", "--from", "list.txt", "--model", MODEL, "--out", "remote", "--overlay"]) == 1
        said = "".join(capfd.readouterr())
        assert len(list(Path("remote/overlays").glob("*.mp4"))) == 2
        assert f"media-src 'self' file: {address};" in Path("remote/report.html").read_text()
        assert any(f"X-Amz-Signature={SECRET}" in line for line in seen)
        assert any("Authorization" in line or "Basic" in line for line in seen)
        assert main(["explain", "remote", "--file", f"{address}/plain.mp4"]) in (0, 1)
        said += "".join(capfd.readouterr())
    assert SECRET not in said
    for path in toy.glob("remote/**/*"):
        assert not path.is_file() or SECRET.encode() not in path.read_bytes(), path
    rows = [json.loads(line) for line in Path("remote/predictions.jsonl").read_text().splitlines()]
    assert {row["path"].rpartition("/")[2]: row["status"] for row in rows} == {
        "plain.mp4": "ok",
        "flaky.mp4?id=5": "ok",
        "broken.mp4": "rejected",
        "nothing.mp4": "rejected",
    }


def test_a_data_set_in_a_bucket_gives_the_tables_and_frames_of_its_folder(toy, store, capfd):
    prefix = upload(store, toy / "media/toy", "data/toy").rstrip("/")
    before = contents(toy / "artifacts/toy")
    shutil.rmtree("artifacts/toy/frames")
    card = Path("datasets/toy/card.yaml")
    card.write_text(card.read_text().replace("media: media/toy", f"media: {prefix}"))
    run_stage("index")
    run_stage("decode")
    assert f"index: 62 files in {prefix}: 60 videos" in capfd.readouterr().out
    assert contents(toy / "artifacts/toy") == before
    select.list_objects("toy")  # what DVC depends on instead of a folder
    listed = Path("media/toy/objects.csv").read_text().splitlines()
    assert len(listed) == 63
    assert re.fullmatch(r"labels.csv,\d+ tag:[0-9a-f]{32}", listed[1])
    # By hand, and with what makes tables wrong: the address is named, not where it was copied to.
    store.put_object(
        Bucket="team", Key="data/toy/segments.csv", Body=b"path,start_seconds,end_seconds,label\nx.mp4,0,1,left\n"
    )
    with pytest.raises(
        DataError, match=f"^{prefix}/segments.csv has 1 problem.s.: row 2: 'x.mp4' is no file of the media folder"
    ):
        run_stage("index", "--media", prefix)
    with pytest.raises(DataError, match="s3://team/nothing: no such folder"):
        run_stage("index", "--media", "s3://team/nothing")


def contents(root: Path) -> dict[str, bytes]:
    names = ["videos.csv", "segments.csv", "splits.csv", "audit.json", "decoded.csv", "frames.csv"]
    names += [str(path.relative_to(root)) for path in (root / "frames").rglob("*") if path.is_file()]
    found = {name: (root / name).read_bytes() for name in names}
    assert len(found) > 60
    return found


def test_results_in_a_bucket_go_on_elsewhere_and_are_those_of_a_folder(toy, store, tmp_path, monkeypatch, capfd):
    clips = make_clips(toy)
    assert main(["predict", "clips", "--model", MODEL, "--out", "local"]) == 1
    out = "s3://team/four/results"
    store.put_object(Bucket="team", Key="four/other.txt", Body=b"not ours")
    # Of the first call, on one machine, a shard arrives.
    assert main(["predict", "clips", "--model", MODEL, "--out", out, "--shard", "1/2"]) in (0, 1)
    first = int(capfd.readouterr().out.rpartition("shard 1/2, ")[2].split()[0])
    monkeypatch.setenv("LRCN_CACHE", str(tmp_path / "another machine"))
    assert main(["predict", "clips", "--model", MODEL, "--out", out]) == 1
    said = capfd.readouterr()
    done = 14 - first
    assert f"{done} looked at now, {first} answer(s) taken from shards" in said.out
    assert f"see {out}/results.csv" in said.out
    found = objects(store, "four/results/")
    expected = {
        path.relative_to("local").as_posix(): path.read_bytes() for path in Path("local").rglob("*") if path.is_file()
    }
    expected.pop(".ledger.jsonl")
    assert found.pop(".ledger.jsonl").count(b"\n") == 14
    assert ".shards/1-of-2/.ledger.jsonl" in found
    assert {name for name in found if not name.startswith(".shards")} == set(expected)
    for name in (*TABLES, "model.yaml"):
        assert found[name] == expected[name]
    # A third machine does nothing again.
    monkeypatch.setenv("LRCN_CACHE", str(tmp_path / "third machine"))
    shutil.rmtree(clips / "left")
    assert main(["predict", "clips", "--model", MODEL, "--out", out]) == 1
    assert ", 0 looked at now" in capfd.readouterr().out
    left = objects(store, "four/results/")
    assert left["results.csv"].count(b"\n") == 9
    assert objects(store, "four/other") == {".txt": b"not ours"}
    assert SECRET not in said.out + said.err + "".join(map(str, left.values()))


def objects(client, prefix: str) -> dict[str, bytes]:
    listed = client.list_objects_v2(Bucket="team", Prefix=prefix)["Contents"]
    return {
        entry["Key"].removeprefix(prefix): client.get_object(Bucket="team", Key=entry["Key"])["Body"].read()
        for entry in listed
    }


def test_results_that_could_not_be_delivered_are_by_the_same_command(toy, store, s3_server, monkeypatch, capfd):
    make_clips(toy)
    out = "s3://team/five/results"
    with servers.Proxy(s3_server.endpoint) as proxy:
        use_server(monkeypatch, s3_server, proxy.endpoint)
        monkeypatch.setattr(remote, "PATIENCE_SECONDS", 1.0)
        write = predict.write_folder

        def write_and_lose_the_server(*arguments):
            write(*arguments)
            proxy.away()

        with monkeypatch.context() as during:
            during.setattr(predict, "write_folder", write_and_lose_the_server)
            assert main(["predict", "clips", "--model", MODEL, "--out", out]) == 2
        assert "not all results could be delivered" in capfd.readouterr().err
        proxy.back()
        assert main(["predict", "clips", "--model", MODEL, "--out", out]) == 1
    assert ", 0 looked at now" in capfd.readouterr().out
    assert objects(store, "five/results/")["results.csv"].count(b"\n") == 15


def write_and_stop(url: Url) -> None:
    with mirrored(url) as here:
        (here / "b").unlink()
        (here / "c").write_text("c")
        raise KeyboardInterrupt


def test_what_a_local_copy_and_its_bucket_become_of_each_other(store, tmp_path, monkeypatch):
    url = Url("s3://team/six")
    monkeypatch.setattr(mirror, "FIRST_WAIT_SECONDS", 0.2)
    with mirrored(url) as here:
        (here / "frames").mkdir()
        (here / "frames/a").write_text("a")
        (here / "b").write_text("b")
    assert objects(store, "six/") == {"frames/a": b"a", "b": b"b"}
    with pytest.raises(KeyboardInterrupt):  # stopped: nothing is delivered, nothing is lost
        write_and_stop(url)
    assert objects(store, "six/") == {"frames/a": b"a", "b": b"b"}
    store.put_object(Bucket="team", Key="six/frames/a", Body=b"newer")
    with mirrored(url) as here, pytest.raises(StoreError, match="is writing there"), mirrored(url):
        pass
    # Fetched were what is newer there and what was missing here.
    assert objects(store, "six/") == {"frames/a": b"newer", "b": b"b", "c": b"c"}
    with mirrored(url) as here:
        assert (here / "frames/a").read_text() == "newer"
        (here / "b").unlink()
        (here / ".b.0123456789abcdef0123456789abcdef.tmp").write_text("half")
        deadline = time.monotonic() + 20  # it is delivered while it grows, too
        while "b" in objects(store, "six/") and time.monotonic() < deadline:
            time.sleep(0.05)
        assert set(objects(store, "six/")) == {"frames/a", "c"}
    assert set(objects(store, "six/")) == {"frames/a", "c"}
    store.delete_object(Bucket="team", Key="six/c")
    with mirrored(url) as here:
        assert not (here / "c").exists()
    assert set(objects(store, "six/")) == {"frames/a"}
    store.put_object(Bucket="team", Key="six/../../../evil", Body=b"x")
    with pytest.raises(LrcnError, match=r"six/../../../evil: leads out of the folder"), mirrored(url):
        pass
