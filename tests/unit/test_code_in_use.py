"""Under DVC the code of the working folder runs, which DVC compares; not that of where the package is installed."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
COMMAND = "import sys; from pipeline.cli import main; sys.exit(main())"


@pytest.fixture
def checkout(tmp_path) -> Path:
    """A second checkout, whose code says where it is."""
    (tmp_path / "pipeline").mkdir()
    (tmp_path / "pipeline/__init__.py").touch()
    (tmp_path / "pipeline/cli.py").write_text("def main():\n    print('code of', __file__)\n")
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin/lrcn").write_text(COMMAND)  # as the script that is installed, which lies beside no package
    return tmp_path


def code_stage(folder: Path, *flags: str, **variables: str) -> "subprocess.CompletedProcess[str]":
    environment = {name: value for name, value in os.environ.items() if name != "DVC_STAGE"}
    environment |= {"PYTHONPATH": str(ROOT), **variables}
    command = [sys.executable, *flags, str(folder / "bin/lrcn"), "code", "--help"]
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)


def test_a_stage_runs_the_code_that_dvc_compares(checkout):
    done = code_stage(checkout, DVC_STAGE="train@toy")
    assert (done.stdout, done.stderr) == (f"code of {checkout / 'pipeline/cli.py'}\n", "")


def test_by_hand_the_installed_code_runs(checkout):
    assert code_stage(checkout).stdout.startswith("usage: lrcn code")


def test_where_there_is_no_code_the_installed_one_runs(checkout):
    (checkout / "pipeline/cli.py").unlink()
    assert code_stage(checkout, DVC_STAGE="train@toy").stdout.startswith("usage: lrcn code")


def test_a_python_that_takes_no_path_is_told_once(checkout):
    """Mutant: without the look at PYTHONPATH it would begin again for ever."""
    script = checkout / "bin/lrcn"
    script.write_text(f"import sys; sys.path.insert(0, {str(ROOT)!r})\n{COMMAND}")
    done = code_stage(checkout, "-E", DVC_STAGE="train@toy")
    assert done.returncode == 2
    assert done.stderr == (
        f"lrcn code: {checkout}: DVC compares the code here, but that of {ROOT} runs; "
        "expected a Python that uses PYTHONPATH\n"
    )
