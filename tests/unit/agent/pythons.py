"""The Pythons of this machine."""

import shutil
import subprocess
from pathlib import Path

import pytest


def interpreter(version: str) -> str:
    """Return a Python of this version, as `python3.8` or as pyenv keeps it; else skip."""
    candidates = [shutil.which(f"python{version}") or ""]
    candidates += [
        str(path) for path in Path.home().glob(f".pyenv/versions/{version}.*/bin/python")
    ]
    for candidate in filter(None, candidates):
        answer = subprocess.run(
            [candidate, "-c", "import sys; print('%d.%d' % sys.version_info[:2])"],
            capture_output=True,
            text=True,
            check=False,
        )
        if answer.stdout.strip() == version:
            return candidate
    pytest.skip(f"no Python {version} here")
