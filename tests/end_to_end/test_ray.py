"""`--engine ray`: the same bytes as without it, whatever is killed; on two nodes, and on a Ray of the command's own.

`benchmarks/engine.py` does it with 300 videos and five kills of each kind, and compares the speed.
"""

import random
import shutil
import signal
import time
from pathlib import Path

import psutil
import pytest

from tests import clusters
from tests.conftest import write_toy_video
from tests.faults import damaged, unusable

pytest.importorskip("ray", reason="Ray is not installed (extra `ray`)")
pytestmark = pytest.mark.slow

CLIP, FRAME = (f"artifacts/toy/trainings/{task}-rgb-fold1-seed0/model" for task in ("clip", "frame"))
NUM_CLIPS, NUM_BAD, SEED = 40, 10, 8


@pytest.fixture(scope="module")
def cluster():
    with clusters.cluster(num_nodes=2) as environment:
        yield environment


@pytest.fixture(scope="module")
def place(built_toy, tmp_path_factory) -> Path:
    """The toy with a folder `inbox` of short clips, some long recordings and bad files."""
    root = tmp_path_factory.mktemp("ray") / "toy"
    shutil.copytree(built_toy, root)
    for number in range(NUM_CLIPS):
        write_toy_video(root / f"inbox/{number % 7}/{number}.mp4", "left" if number % 2 else "right", number)
    shutil.copytree(root / "media/toy/long", root / "inbox/long")
    faults = [*unusable.rows(), *damaged.rows()]
    for number, fault in enumerate(faults[:: len(faults) // NUM_BAD][:NUM_BAD]):
        (root / f"inbox/bad{number}").mkdir()
        fault.make(root / f"inbox/bad{number}" / fault.name)
    return root


def predict(place: Path, out: str, environment: dict[str, str], *more: str, model: str = FRAME):
    arguments = ["predict", "inbox", "--model", model, "--out", out, "--workers", "2", *more]
    return clusters.lrcn(arguments, place, environment)


@pytest.fixture(scope="module")
def plain(place) -> dict[str, bytes]:
    """Results of the plain run."""
    clusters.finished(predict(place, "plain", clusters.environment()), 1)
    return clusters.contents(place / "plain")


def test_two_nodes_give_the_same_files(place, plain, cluster):
    said = clusters.finished(predict(place, "two", cluster, "--engine", "ray"), 1)
    assert clusters.contents(place / "two") == plain
    assert "predict: Ray started in " in said
    assert "busy: decoding " in said
    assert {Path(name).parts[0] for name in plain} >= {"frames", "thumbnails", "results.csv", "segments.csv"}
    statuses = [line.split(b",")[1] for line in plain["results.csv"].splitlines()[1:]]
    assert {b"ok", b"damaged", b"rejected"} <= set(statuses)


def test_features_of_files_are_the_same_bytes(place, cluster):
    """Of optical flow and ten crops, for which frames come in pairs and more than once."""
    common = ["extract", "inbox/0", "inbox/long", "inbox/bad0", "inbox/bad1", "--backbone", "squeezenet1_1"]
    common += ["--weights", str(random_weights(place)), "--fps", "10", "--short-side", "32", "--crop", "32"]
    common += ["--flow", "dis", "--crops", "10"]
    for out, env, engine in (("plain", clusters.environment(), "local"), ("ray", cluster, "ray")):
        command = [*common, "--out", f"{out}-features", "--engine", engine]
        clusters.finished(clusters.lrcn(command, place, env), 1)
    features = clusters.contents(place / "plain-features")
    assert len(features) > 10
    assert clusters.contents(place / "ray-features") == features


def random_weights(place: Path) -> Path:
    """A weights file: nothing is downloaded in tests."""
    import torchvision

    path = place / "weights.pth"
    if not path.exists():
        import torch

        torch.manual_seed(0)
        torch.save(torchvision.models.squeezenet1_1().state_dict(), path)
    return path


def test_stages_write_the_same_stores(place, cluster):
    artifacts = place / "artifacts/toy"
    before = {name: clusters.contents(artifacts / name) for name in ("frames", "features")}
    assert all(len(files) > 40 for files in before.values())
    for name in before:
        shutil.rmtree(artifacts / name)
    (place / "configs/runtime.yaml").write_text("device: cpu\nworkers: 2\nengine: ray\n")
    for stage in ("decode", "extract"):
        said = clusters.finished(clusters.lrcn([stage, "--config", "configs/toy.yaml"], place, cluster), 0)
        assert f"{stage}: Ray started in " in said
        assert "60 of 60 videos " in said
    assert {name: clusters.contents(artifacts / name) for name in before} == before
    said = clusters.finished(clusters.lrcn(["decode", "--config", "configs/toy.yaml"], place, cluster), 0)
    assert "Ray" not in said  # nothing to do, nobody asked


def test_processes_of_rays_that_are_killed_are_replaced(place, plain, cluster):
    """An actor, and later a task that decodes."""
    process = predict(place, "killed", cluster, "--engine", "ray")
    rng = random.Random(SEED)
    moments = {"Backbones": rng.randrange(1, 10), "decode": rng.randrange(10, 30)}  # lines of the ledger, of 70
    nodes = [p.pid for p in psutil.process_iter(["cmdline"]) if is_node(p, cluster)]
    assert len(nodes) == 2
    num_killed = dict.fromkeys(moments, 0)
    while process.poll() is None and not all(num_killed.values()):
        for kind, moment in moments.items():
            if not num_killed[kind] and clusters.num_lines(place / "killed/.ledger.jsonl") >= moment:
                num_killed[kind] = clusters.kill([w for node in nodes for w in clusters.workers(node, kind)][:1])
        time.sleep(0.001)
    said = clusters.finished(process, 1)
    assert num_killed == {"decode": 1, "Backbones": 1}
    assert clusters.contents(place / "killed") == plain, said


def is_node(process: psutil.Process, cluster: dict[str, str]) -> bool:
    command = process.info["cmdline"] or []
    address = cluster["RAY_ADDRESS"]
    return "start" in command and bool({f"--port={address.split(':')[1]}", f"--address={address}"} & {*command})


def test_a_driver_that_is_killed_goes_on_from_what_is_there(place, plain, cluster):
    process = predict(place, "driver", cluster, "--engine", "ray")
    ledger = place / "driver/.ledger.jsonl"
    while clusters.num_lines(ledger) < 20:
        assert process.poll() is None, process.communicate()
        time.sleep(0.001)
    process.kill()
    process.communicate()
    num_kept = clusters.num_lines(ledger)
    said = clusters.finished(predict(place, "driver", cluster, "--engine", "ray"), 1)
    files = clusters.contents(place / "driver")
    assert files == plain  # the ledger too: a line for each video, so none was done twice
    num_rows = plain["results.csv"].count(b"\n") - 1
    assert f"{num_rows} file(s), {num_rows - num_kept} looked at now" in said


def test_a_ray_of_the_commands_own_is_reached_by_nobody_and_ends_with_it(place):
    environment = clusters.environment()
    process = predict(place, "own", environment, "--engine", "ray", "--watch", "0.2", model=CLIP)
    ledger = place / "own/.ledger.jsonl"
    seen: set[str] = set()
    tree: list[psutil.Process] = []
    while clusters.num_lines(ledger) < 5:
        assert process.poll() is None, process.communicate()
        time.sleep(0.1)
    tree = clusters.descendants(process.pid)
    for member in tree:
        seen |= {connection.laddr.ip for connection in member.net_connections("inet") if connection.status == "LISTEN"}
    assert len(tree) > 5
    assert {address.removeprefix("::ffff:") for address in seen} == {"127.0.0.1"}
    begin = time.monotonic()
    process.send_signal(signal.SIGTERM)
    said = clusters.finished(process, 128 + signal.SIGTERM)
    assert "stopped" in said
    assert time.monotonic() - begin < 20  # 4 s on a quiet machine
    _, alive = psutil.wait_procs(tree, timeout=20)
    assert not alive
    assert not list(Path("/tmp").glob(f"lrcn-ray-{process.pid}-*")) or "stopped at once" in said
