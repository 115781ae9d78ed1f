"""`lrcn runs list|compare|best|sync`: the runs in MLflow, in the terminal."""

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

from pipeline.discovery import printable
from pipeline.errors import TrackingError
from pipeline.reporting.runtables import choice, comparison, family_order, run_facts, run_list
from pipeline.runchoice import comparable, groups_of
from pipeline.trackingruns import asking, find_run, runs_of
from pipeline.trackingstore import OFF, shown, tracking_uri
from pipeline.trackingunsent import deliver_unsent, unsent_folder, unsent_keys


def main(argv: Sequence[str] | None = None) -> int:
    """Do what is asked for; 0, or 1 when `sync` could not deliver everything."""
    parser = argparse.ArgumentParser(prog="lrcn runs", description=__doc__, allow_abbrev=False)
    commands = parser.add_subparsers(dest="command", required=True, metavar="list|compare|best|sync")
    listing = commands.add_parser("list", help="runs, the newest first, those of an experiment below its run")
    listing.add_argument("experiments", nargs="*", metavar="EXPERIMENT", help="e.g. demo (default: all)")
    listing.add_argument("--json", action="store_true", help="one object per line")
    compare = commands.add_parser("compare", help="what differs between runs, and their scores side by side")
    compare.add_argument(
        "runs", nargs="+", metavar="RUN", help="two or more: id of a run, the beginning of one, or a training's folder"
    )
    best = commands.add_parser("best", help="the trainings with the best validation score; test scores choose nothing")
    best.add_argument("experiment", metavar="EXPERIMENT")
    best.add_argument("--task", choices=["clip", "frame"], required=True)
    best.add_argument("--stream", choices=["rgb", "flow"], help="(default: whichever is better)")
    commands.add_parser("sync", help="deliver to MLflow what it missed while it was away")
    options = parser.parse_args(argv)
    if options.command == "compare" and len(options.runs) == 1:
        raise TrackingError(
            f"compare: {options.runs[0]} alone; expected two runs or more (`lrcn explain {options.runs[0]}` says what "
            "one was made from)"
        )
    uri = tracking_uri(Path())
    if options.command == "list":
        return list_runs(uri, options.experiments, options.json)
    if options.command == "compare":
        return compare_runs(uri, options.runs)
    if options.command == "best":
        return best_runs(uri, options.experiment, options.task, options.stream)
    return sync(uri)


def list_runs(uri: str, experiments: Sequence[str], as_json: bool) -> int:
    """Print the runs of some experiments, or of all."""
    with asking(uri) as client:
        runs, num_others = runs_of(client, experiments)
    for line in [json.dumps(run_facts(run)) for run, _ in family_order(runs)] if as_json else run_list(runs):
        print(line)
    if num_others:
        print(f"runs: {num_others} run(s) that this package did not make are not listed", file=sys.stderr)
    if unsent := unsent_keys(unsent_folder(Path())):
        print(f"runs: {len(unsent)} run(s) wait for delivery to MLflow: `lrcn runs sync`", file=sys.stderr)
    return 0


def compare_runs(uri: str, names: Sequence[str]) -> int:
    """Print what differs between runs."""
    with asking(uri) as client:
        runs = [find_run(client, name) for name in names]
    for line in comparison(runs):
        print(line)
    return 0


def best_runs(uri: str, experiment: str, task: str, stream: str | None) -> int:
    """Print the groups of trainings by their validation score."""
    with asking(uri) as client:
        runs, _ = runs_of(client, [experiment])
    groups, num_others = comparable(groups_of(runs, task, stream))
    if not groups:
        of = f"{task} task" if stream is None else f"{task} task and stream {stream}"
        raise TrackingError(f"{experiment}: no finished training of the {of} in {shown(uri)}; see `lrcn runs list`")
    for line in choice(experiment, groups, num_others):
        print(line)
    return 0


def sync(uri: str) -> int:
    """Deliver what MLflow missed, and say of each run whether it was taken."""
    if uri == OFF:
        raise TrackingError("MLFLOW_TRACKING_URI is `off`; set it to where the runs are to be, or unset it")
    folder = unsent_folder(Path())
    if not unsent_keys(folder):
        print("runs: nothing waits for delivery")
        return 0
    for line in deliver_unsent(folder, uri):
        print(printable(line))
    return 1 if unsent_keys(folder) else 0
