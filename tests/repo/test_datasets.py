"""The definitions below `datasets/`: every card reads, and says what it should."""

import csv
from collections import Counter, defaultdict
from pathlib import Path

import pytest

from pipeline.config import load_experiment
from pipeline.data.cards import read_dataset
from pipeline.data.groups import assign_groups, by_list, by_pattern, read_headed_list
from pipeline.data.splits import by_groups
from pipeline.data.tables import Video

ROOT = Path(__file__).resolve().parents[2]
NUM_CLASSES = {
    "50salads": 19, "breakfast": 48, "demo": 8, "demo_tied": 8, "fight": 2, "gtea": 10, "hmdb51": 51, "recordings": 5,
    "ucf101": 101,
}  # fmt: skip
FIGHT = ROOT.parent / "shared" / "data" / "fight"


def dataset(name: str):
    return read_dataset(ROOT / "datasets" / name)


def test_there_is_a_test_for_every_data_set():
    assert sorted(path.name for path in (ROOT / "datasets").iterdir()) == sorted(NUM_CLASSES)


def test_definitions_hold_no_python():
    # An importable `datasets` would shadow, or be shadowed by, a well-known package of that name.
    assert [path for folder in ("datasets", "configs") for path in (ROOT / folder).rglob("*.py")] == []


@pytest.mark.parametrize("name", NUM_CLASSES)
def test_cards_read(name):
    found = dataset(name)
    assert len(found.classes) == len(set(found.classes)) == NUM_CLASSES[name]
    assert found.card.media == f"media/{name}"
    readme = (found.folder / "README.md").read_text(encoding="utf-8")
    assert readme.startswith(f"# {name}\n")
    assert found.card.media in readme
    assert "Licence" in readme


def test_order_of_the_classes():
    assert dataset("fight").classes == ("noFight", "fight")  # the positive class last
    assert [dataset("ucf101").classes[i] for i in (0, 36, 47, 100)] == [
        "ApplyEyeMakeup",
        "HandstandPushups",
        "JumpRope",
        "YoYo",
    ]
    assert list(dataset("hmdb51").classes) == sorted(dataset("hmdb51").classes)


def test_everybody_of_the_demo_is_tested_once():
    folds = dataset("demo").card.splits.groups.folds
    people = [f"person-{number:02d}" for number in range(1, 41)]
    assert sorted(person for fold in folds for person in fold.test) == people
    for fold in folds:
        assert (len(fold.test), len(fold.validation)) == (10, 5)
        assert not set(fold.test) & set(fold.validation)
        assert set(fold.validation) <= set(people)


def test_the_tied_demo_is_divided_as_the_demo():
    demo, tied = dataset("demo"), dataset("demo_tied")
    assert (tied.classes, tied.card.splits, tied.card.groups) == (demo.classes, demo.card.splits, demo.card.groups)
    assert tied.card.opposites == demo.card.opposites
    assert (tied.card.segments, tied.card.background) == (None, None)
    # Rooms that are shared by all sides make near-duplicates, at which the audit would stop.
    assert load_experiment(ROOT / "configs/demo_tied.yaml").audit.allow_leak


def test_every_class_of_the_demo_has_its_opposite():
    found = dataset("demo")
    assert sorted(name for pair in found.card.opposites for name in pair) == sorted(found.classes)


def test_the_published_lists_of_ucf101_as_a_rule():
    found = dataset("ucf101")
    paths = [f"UCF-101/Dig/v_Dig_g{group:02d}_c{clip:02d}.avi" for group in range(1, 26) for clip in range(1, 5)]
    groups = assign_groups(paths, [by_pattern(rule.pattern, rule.name) for rule in found.card.groups])
    assert groups[paths[0]] == "Dig_g01"
    videos = [Video(path, "0" * 64, 1, "ok", label="Dig", group=groups[path]) for path in paths]
    numbers = {1: range(1, 8), 2: range(8, 15), 3: range(15, 22)}
    for number, named in enumerate(found.card.splits.groups.folds, start=1):
        fold, unused = by_groups(videos, named.test, named.validation)
        assert unused == []
        tested = {path for path, side in fold.items() if side == "test"}
        assert tested == {path for path in paths if int(path[-10:-8]) in numbers[number]}
        assert {path[-10:-8] for path, side in fold.items() if side == "val"} == {"23", "24", "25"}
    assert [(f.train, f.test) for f in found.card.splits.expected] == [(9537, 3783), (9586, 3734), (9624, 3696)]
    assert {fold.train + fold.test for fold in found.card.splits.expected} == {13320}


def test_sources_of_hmdb51():
    rules = [by_pattern(rule.pattern, rule.name) for rule in dataset("hmdb51").card.groups]
    paths = {
        "brush_hair/April_09_brush_hair_u_nm_np1_ba_goo_0.avi": "April_09",
        "hmdb51_org/walk/#122_A_walk_in_the_park_walk_f_cm_np1_ri_med_1.avi": "#122_A_walk_in_the_park",
        "sword/unusual.avi": "unusual.avi",
    }
    assert assign_groups(paths, rules) == paths


def fight_groups(path: Path) -> dict[str, str]:
    """Group by file name, by the card's rules and the authors' list."""
    rules = []
    for rule in dataset("fight").card.groups:
        if rule.list is None:
            rules.append(by_pattern(rule.pattern, rule.name))
        else:
            rules.append(by_list(read_headed_list(path, rule.head, rule.member)[0]))
    names = [f"{kind}{number:03d}.mp4" for kind in ("fi", "nofi") for number in range(1, 151)]
    return assign_groups(names, rules)


def test_rules_of_the_fight_set(tmp_path):
    text = "https://www.youtube.com/watch?v=A-b_1 \nfi001: 0.13.50 - 0.15.60\nnofi061: 0.1 - 0.2\n\n"
    (tmp_path / "videos.txt").write_text(
        text + "nofi062 - nofi076 : CamNet Dataset\nnofi076 - nofi091 : Synopsis dataset"
    )
    groups = fight_groups(tmp_path / "videos.txt")
    assert groups["fi001.mp4"] == groups["nofi061.mp4"] == "A-b_1"
    assert groups["fi002.mp4"] == groups["nofi092.mp4"] == ""
    assert Counter(groups.values())["CamNet+Synopsis"] == 30
    assert groups["nofi062.mp4"] == groups["nofi091.mp4"] == "CamNet+Synopsis"


def test_groups_of_the_fight_set_hold_whole_recordings():
    if not (FIGHT / "videos.txt").is_file():
        pytest.skip("the fight set is not beside this checkout (../shared/data/fight)")
    groups = fight_groups(FIGHT / "videos.txt")
    with (FIGHT / "sources.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == len(groups) == 300
    sources = defaultdict(set)
    for row in rows:
        sources[groups[Path(row["path"]).name]].add(row["source"].removeprefix("youtube:"))
    assert {group: found for group, found in sources.items() if found != {group}} == {
        "IZjLv7alWTk+g0x9-0pOuhw": {"IZjLv7alWTk", "g0x9-0pOuhw"},  # nofi022 is listed under both
        "CamNet+Synopsis": {"camnet", "synopsis"},  # nofi076 is listed under both
    }
    assert len(sources) == 44
