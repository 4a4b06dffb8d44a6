"""The zipapp: the same bytes each time, and it runs in the user's Python, or says why not."""

import ast
import os
import shutil
import stat
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from goodput import protocol
from goodput.agent.build import build_zipapp
from tests.unit.agent.pythons import interpreter

OLD_PYTHONS = ("2.7", "3.6", "3.7")
GOOD_PYTHONS = ("3.8", "3.9", "3.13")


@pytest.fixture(scope="module")
def zipapp(tmp_path_factory: pytest.TempPathFactory, source_root: Path) -> Path:
    target = tmp_path_factory.mktemp("zipapp") / "agent.pyz"
    build_zipapp(source_root, target)
    return target


def run(python: str, *arguments: object, **environ: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [python, *map(str, arguments)],
        env={"PATH": os.environ["PATH"], **environ},
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )


def test_the_same_sources_give_the_same_bytes(
    zipapp: Path, source_root: Path, tmp_path: Path
) -> None:
    copy = tmp_path / "operator"
    shutil.copytree(source_root / "goodput", copy / "goodput", copy_function=shutil.copyfile)
    build_zipapp(copy, tmp_path / "again.pyz")
    assert (tmp_path / "again.pyz").read_bytes() == zipapp.read_bytes()


def test_it_holds_the_agent_the_sdk_and_nothing_but_python(zipapp: Path) -> None:
    names = zipfile.ZipFile(zipapp).namelist()
    assert {"__main__.py", "goodput/protocol.py", "goodput/agent/core.py"} <= set(names)
    assert "goodput/checkpoint/layout.py" in names
    assert all(name.endswith(".py") for name in names)
    assert names == sorted(names)


def test_every_file_keeps_to_the_grammar_of_python_3_8(zipapp: Path) -> None:
    archive = zipfile.ZipFile(zipapp)
    for name in archive.namelist():
        ast.parse(archive.read(name), name, feature_version=(3, 8))


@pytest.mark.parametrize("version", GOOD_PYTHONS)
def test_every_module_of_the_agent_can_be_imported(zipapp: Path, version: str) -> None:
    modules = [
        name[:-3].replace("/", ".")
        for name in zipfile.ZipFile(zipapp).namelist()
        if name.startswith("goodput/agent/") and "__" not in name
    ]
    code = f"import importlib; [importlib.import_module(name) for name in {modules}]"
    answer = run(interpreter(version), "-W", "error", "-c", code, PYTHONPATH=str(zipapp))
    assert (answer.returncode, answer.stderr) == (0, "")


@pytest.mark.parametrize("version", OLD_PYTHONS)
def test_a_python_that_is_too_old_is_told_in_one_line(zipapp: Path, version: str) -> None:
    answer = run(interpreter(version), zipapp, "--", "true")
    assert answer.returncode == protocol.EXIT_CODE_PYTHON_TOO_OLD
    assert answer.stderr == (
        f"goodput: Python {version} is too old; the image needs Python 3.8 or newer\n"
    )


def test_the_init_container_installs_it_for_any_user(zipapp: Path, tmp_path: Path) -> None:
    target = tmp_path / "goodput" / "agent.pyz"
    answer = run(sys.executable, zipapp, "install", target)
    assert (answer.returncode, answer.stderr) == (0, "")
    assert target.read_bytes() == zipapp.read_bytes()
    assert stat.S_IMODE(target.stat().st_mode) == 0o555
    assert stat.S_IMODE((target.parent / "run").stat().st_mode) == 0o1777
    assert sorted(path.name for path in target.parent.iterdir()) == ["agent.pyz", "run"]


def test_installing_twice_is_installing_once(zipapp: Path, tmp_path: Path) -> None:
    for _ in range(2):
        assert run(sys.executable, zipapp, "install", tmp_path / "agent.pyz").returncode == 0


def test_a_call_without_a_command_is_told_how_to_call(zipapp: Path) -> None:
    answer = run(sys.executable, zipapp)
    assert answer.returncode == 1
    assert answer.stderr.startswith("usage: agent.pyz -- COMMAND")


def test_a_container_that_the_operator_did_not_prepare_is_told_what_is_missing(
    zipapp: Path,
) -> None:
    answer = run(sys.executable, zipapp, "--", "true")
    assert answer.returncode == 1
    assert "the agent cannot start: GOODPUT_SLOT is not set" in answer.stderr
