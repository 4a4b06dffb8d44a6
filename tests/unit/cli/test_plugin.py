"""The archive of `kubectl goodput`: all that it needs and the same bytes each time."""

import hashlib
import json
import os
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest
import yaml

from e2e.cluster.paths import REPOSITORY
from e2e.support.plugin import NAME, krew_manifest, write_archive


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    target = tmp_path_factory.mktemp("plugin") / "plugin.tar.gz"
    write_archive(REPOSITORY, target)
    return target


@pytest.fixture(scope="module")
def unpacked(archive: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    target = tmp_path_factory.mktemp("unpacked")
    with tarfile.open(archive) as tar:
        tar.extractall(target, filter="data")
    return target


@pytest.mark.parametrize("command", ["top", "status", "explain", "timeline", "report"])
def test_every_command_runs_from_the_archive_alone(unpacked: Path, command: str) -> None:
    arguments = {
        "top": ["-A"],
        "report": ["--prometheus", "http://127.0.0.1:1"],
    }.get(command, ["job"])
    kubectl = unpacked / "kubectl"
    ledger = {"acceleratorMilliseconds": {"productive": 1}}
    job = json.dumps({"metadata": {"name": "job"}, "status": {"ledger": ledger}})
    kubectl.write_text(f"#!/bin/sh\n/bin/echo '{job}'\n")
    kubectl.chmod(0o755)
    ended = subprocess.run(
        [sys.executable, "-I", "-S", str(unpacked / NAME), command, *arguments],
        env={"PATH": str(unpacked)},
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert "Traceback" not in ended.stderr
    assert ended.returncode == (1 if command == "report" else 0), ended.stderr


def test_the_program_can_be_run_and_the_licence_is_with_it(unpacked: Path) -> None:
    assert os.access(unpacked / NAME, os.X_OK)
    assert (unpacked / "LICENSE").is_file()


def test_the_same_sources_give_the_same_bytes(tmp_path: Path) -> None:
    one, other = tmp_path / "one", tmp_path / "other"
    write_archive(REPOSITORY, one)
    write_archive(REPOSITORY, other)
    assert one.read_bytes() == other.read_bytes()


def test_the_manifest_names_the_archive_by_its_checksum(archive: Path) -> None:
    url = "https://example.com/kubectl-goodput.tar.gz"
    [platform] = yaml.safe_load(krew_manifest("1.2.3", archive, url))["spec"]["platforms"]
    assert platform["uri"] == url
    assert platform["sha256"] == hashlib.sha256(archive.read_bytes()).hexdigest()
    assert platform["bin"] == NAME
