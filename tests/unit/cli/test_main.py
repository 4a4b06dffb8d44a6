"""Arguments, exit statuses, and never a traceback."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from goodput_operator import cli

SOURCES = Path(cli.__file__).parents[2]
LIGHT = """
import sys, goodput_operator.cli.main, goodput_operator.cli.{}
print(*sys.modules)
"""


def run(
    *arguments: str, path: str | Path = "/nowhere", **environment: str
) -> "subprocess.CompletedProcess[str]":
    clean = {"PATH": str(path), "PYTHONPATH": str(SOURCES), "HOME": "/nowhere"}
    for name in ("PYTHONPYCACHEPREFIX", "LD_LIBRARY_PATH"):
        if name in os.environ:
            clean[name] = os.environ[name]
    return subprocess.run(
        [sys.executable, "-m", "goodput_operator.cli", *arguments],
        env=clean | environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], "required: COMMAND"),
        (["dance"], "invalid choice"),
        (["status"], "required: JOB"),
        (["status", "a", "--steps", "many"], "'many' is no number of steps"),
        (["status", "a", "--steps", "0"], "no number of steps"),
        (["status", "a", "--watch", "-o", "json"], "not allowed with argument"),
        (["status", "pod/a"], "'pod/a' is no TrainingJob"),
        (["explain", "../../secrets"], "no TrainingJob"),
        (["explain", "gtj/.."], "cannot be a name in Kubernetes"),
        (["explain", "A_b"], "cannot be a name in Kubernetes"),
        (["top", "-n", "a/b"], "cannot be a name in Kubernetes"),
        (["timeline", "a", "-o", "xml"], "invalid choice"),
        (["report"], "required: --prometheus"),
        (["report", "--prometheus", "localhost:9090"], "say http://host:9090"),
        (["report", "--prometheus", "file:///etc/passwd"], "say http://host:9090"),
        (["report", "--prometheus", "http://a", "--since", "soon"], "no length of time"),
        (["report", "--prometheus", "http://a", "--price", "free"], "'free' is no price"),
        (["report", "--prometheus", "http://a", "--price", "nan"], "'nan' is no price"),
    ],
)
def test_bad_flags_end_with_2_and_the_remedy(arguments: list[str], words: str) -> None:
    ended = run(*arguments)
    assert ended.returncode == 2
    assert words in ended.stderr
    assert "Traceback" not in ended.stderr


@pytest.mark.parametrize("command", ["", "top", "status", "explain", "timeline", "report"])
def test_help_names_the_command_as_it_is_typed(command: str) -> None:
    ended = run(*([command] if command else []), "--help")
    assert ended.returncode == 0
    assert ended.stdout.startswith(f"usage: kubectl goodput {command}".rstrip())


@pytest.mark.parametrize(
    "arguments", [["top", "-A"], ["status", "a"], ["explain", "a"], ["timeline", "a"]]
)
def test_without_a_way_to_the_cluster_it_ends_with_1_and_a_sentence(arguments: list[str]) -> None:
    ended = run(*arguments)
    assert (ended.returncode, ended.stdout) == (1, "")
    assert ended.stderr == "error: there is no kubectl in PATH, through which the cluster is read\n"


def test_a_prometheus_that_is_down_ends_with_1_and_a_sentence() -> None:
    ended = run("report", "--prometheus", "http://127.0.0.1:1")
    assert (ended.returncode, ended.stdout) == (1, "")
    assert ended.stderr.startswith("error: Prometheus does not answer at http://127.0.0.1:1: ")
    assert ended.stderr.count("\n") == 1


def test_a_token_that_cannot_be_read_ends_with_1_and_a_sentence(tmp_path: Path) -> None:
    flags = ("--prometheus", "http://127.0.0.1:1", "--prometheus-token-file", str(tmp_path))
    ended = run("report", *flags)
    assert ended.returncode == 1
    assert ended.stderr.startswith(f"error: the token in {tmp_path} cannot be read: ")


def test_a_reader_that_has_seen_enough_is_no_error(tmp_path: Path) -> None:
    kubectl = tmp_path / "kubectl"
    items = ",".join(f'{{"metadata":{{"name":"job{n}"}}}}' for n in range(3000))
    kubectl.write_text(f"#!/bin/sh\n/bin/cat <<'E'\n{{\"items\":[{items}]}}\nE\n")
    kubectl.chmod(0o755)
    command = f"{sys.executable} -m goodput_operator.cli top -n a | /usr/bin/head -1; exit $?"
    ended = subprocess.run(
        ["/bin/bash", "-o", "pipefail", "-c", command],
        env={"PATH": str(tmp_path), "PYTHONPATH": str(SOURCES)},
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert (ended.returncode, ended.stderr) == (0, "")
    assert ended.stdout.startswith("JOB")


@pytest.mark.parametrize(
    ("module", "more"),
    [
        pytest.param("explain", {"ssl", "urllib.request", "concurrent.futures"}, id="explain"),
        pytest.param("figures", set[str](), id="figures"),
    ],
)
def test_it_starts_light(module: str, more: set[str]) -> None:
    ended = subprocess.run(
        [sys.executable, "-c", LIGHT.format(module)],
        env={"PYTHONPATH": str(SOURCES)},
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    heavy = {"pydantic", "kubernetes", "aiohttp", "kopf", "asyncio", "rich", "prometheus_client"}
    assert not (heavy | more) & set(ended.stdout.split())
