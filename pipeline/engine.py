"""Where videos are decoded and features computed: by this process and its children, or by Ray, on many machines too."""

import argparse
import os
import secrets
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from pipeline.discovery import printable
from pipeline.errors import ConfigError

if TYPE_CHECKING:
    from pipeline.rayengine import RayEngine

ENGINES = ("local", "ray")
# What Ray reads when it is imported, where the user has not set it: nothing is sent to its makers, a warning about GPUs
# of tasks without one is answered, and what C++ code says to the terminal are errors.
SETTINGS = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "RAY_BACKEND_LOG_LEVEL": "error",
}


def add_engine_arguments(parser: argparse.ArgumentParser) -> None:
    """Add --engine and --ray-address."""
    parser.add_argument(
        "--engine",
        choices=ENGINES,
        default="local",
        help="local: this process and its children (default); ray: tasks and actors of Ray, on one or more machines",
    )
    parser.add_argument(
        "--ray-address",
        default="",
        metavar="ADDRESS",
        help="with --engine ray: HOST:PORT of a running cluster, or auto for this machine's (default: RAY_ADDRESS; "
        "where that is not set, one is started on this machine and stopped at the end)",
    )


@contextmanager
def opened_engine(name: str, address: str, *, workers: int, device: str, command: str) -> Iterator["RayEngine | None"]:
    """The engine of this name, with what it did said on stderr in the end; None for the local one.

    address: of a cluster, "" for that of RAY_ADDRESS, or for one of its own. workers: videos decoded at a time, 0 = one
    for each processor. Raises ConfigError when Ray is not installed, or there is no such cluster.
    """
    if name == "local":
        if address:
            raise ConfigError(f"ray address is {address!r}, but the engine is local; expected engine ray with it")
        yield None
        return
    address = address or os.environ.get("RAY_ADDRESS", "")
    if address == "local":  # Ray's word for one of our own
        address = ""
    for variable, value in SETTINGS.items():
        os.environ.setdefault(variable, value)
    if not address:
        # Whoever reaches a cluster runs code in it: one of our own listens on 127.0.0.1 alone, which Ray does where it
        # takes a machine for one that can have no cluster, and answers to this process alone.
        os.environ |= {"RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0", "RAY_AUTH_MODE": "token"}
        os.environ["RAY_AUTH_TOKEN"] = secrets.token_hex(32)
    try:
        from pipeline.rayengine import RayEngine
    except ModuleNotFoundError as error:
        if error.name != "ray":
            raise
        raise ConfigError('engine ray: Ray is not installed; pip install "lrcn-pipeline[ray]"') from None
    engine = RayEngine(address, workers=workers, device=device)
    try:
        yield engine
    finally:
        if summary := engine.summary():
            sys.stderr.write(printable(f"{command}: {summary}") + "\n")
        engine.close()
