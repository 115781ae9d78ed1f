"""The cards of the published sets on a stand-in for the distributed files: their names and lists, tiny features."""

from pathlib import Path

import numpy as np
import pytest

from pipeline.data.cards import read_dataset
from pipeline.data.index import Index, index_dataset

ROOT = Path(__file__).resolve().parents[2]
ACTIVITIES = ("cereals", "coffee", "friedegg", "juice", "milk", "pancake", "salat", "sandwich", "scrambledegg", "tea")


def names(dataset: str) -> tuple[list[str], list[list[str]]]:
    """Names of all recordings, and those of each test list: by person, as published."""
    if dataset == "50salads":
        people = [f"{number:02d}" for number in range(1, 28) if number not in (8, 12)]
        found = [f"rgb-{person}-{take}" for person in people for take in (1, 2)]
        return found, [[n for n in found if people.index(n[4:6]) % 5 == fold] for fold in range(5)]
    if dataset == "gtea":
        foods = ("Cheese", "CofHoney", "Coffee", "Hotdog", "Pealate", "Peanut", "Tea")
        found = [f"S{person}_{food}_C1" for person in range(1, 5) for food in foods]
        return found, [[n for n in found if n.startswith(f"S{fold}_")] for fold in range(1, 5)]
    found = [f"P{person:02d}_cam01_P{person:02d}_{activity}" for person in range(3, 55) for activity in ACTIVITIES]
    return found, [[n for n in found if (int(n[1:3]) - 3) // 13 == fold] for fold in range(4)]


def distribute(media: Path, dataset: str) -> Index:
    definition = read_dataset(ROOT / "datasets" / dataset)
    classes = [*definition.classes, *([definition.card.background] if definition.card.background else [])]
    found, tests = names(dataset)
    for folder in ("features", "groundTruth", "splits"):
        (media / folder).mkdir(parents=True)
    rng = np.random.default_rng(0)
    for name in found:
        labels = [label for label in rng.permutation(classes) if label != "stir_tea"]
        np.save(media / "features" / f"{name}.npy", rng.random((8, len(labels) + 1), dtype=np.float32))
        (media / "groundTruth" / f"{name}.txt").write_text("\n".join(labels) + "\n")
    for number, tested in enumerate(tests, start=1):
        for side, listed in (("test", tested), ("train", [name for name in found if name not in tested])):
            (media / "splits" / f"{side}.split{number}.bundle").write_text("".join(f"{n}.txt\n" for n in listed))
    (media / "mapping.txt").write_text("".join(f"{index} {name}\n" for index, name in enumerate(classes)))

    def no_video(path: Path):
        raise AssertionError(f"{path} was offered to the demuxer")

    return index_dataset(definition, media, no_video, workers=2)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("dataset", "num_recordings", "num_groups", "sizes"),
    [("50salads", 50, 25, (40, 10)), ("gtea", 28, 4, (21, 7)), ("breakfast", 520, 52, (390, 130))],
)
def test_the_distributed_layout_is_read_as_it_is(tmp_path, dataset, num_recordings, num_groups, sizes):
    index = distribute(tmp_path / dataset, dataset)
    usable = [video for video in index.videos if video.status == "ok"]
    assert len(usable) == num_recordings
    assert len({video.group for video in usable}) == num_groups
    assert {video.width for video in usable} == {8}
    assert index.audit["leaks"] == []
    assert index.audit["unmet_expectations"] == []
    for fold in index.audit["folds"]:
        counts = {side: fold[side]["videos"] for side in ("train", "val", "test")}
        assert (counts["train"] + counts["val"], counts["test"]) == sizes
        assert 0 < counts["val"] <= sizes[0] / 3
    warnings = "\n".join(index.audit["warnings"])
    assert f"{num_recordings} recording(s) have features and labels of different lengths" in warnings
    if dataset == "breakfast":  # an action that nobody does is noted, not refused
        assert "stir_tea" not in {segment.label for segment in index.segments}
