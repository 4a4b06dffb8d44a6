"""`make plugin`: `kubectl goodput` as an archive of its own, and the manifest for krew.

The command line needs few of the operator's modules and no package at all, so the archive is
some sources and a script that any Python 3.11 or newer runs as they are. krew's manifest names
the address and the checksum of a published archive, so it is written only for who says the
address.
"""

from __future__ import annotations

import gzip
import hashlib
import io
import sys
import tarfile
import tomllib
from pathlib import Path

import yaml

from e2e.cluster.paths import REPOSITORY

NAME = "kubectl-goodput"
SOURCES = (
    "goodput_operator/__init__.py",
    "goodput_operator/errors.py",
    "goodput_operator/names.py",
    "goodput_operator/cli/*.py",
    "goodput_operator/ledger/__init__.py",
    "goodput_operator/ledger/derived.py",
    "goodput_operator/observe/__init__.py",
    "goodput_operator/observe/resources.py",
)
_SCRIPT = """#!/usr/bin/env python3
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))
if sys.version_info < (3, 11):
    sys.exit("kubectl goodput needs Python 3.11 or newer")
from goodput_operator.cli.main import main

main()
"""
_EPOCH = 315532800  # 1980, as everywhere here
_DESCRIPTION = """\
Shows where the accelerators' time of Goodput's TrainingJobs goes: which jobs have lost most (top),
how far one is (status), why it is not productive now and what to do (explain), its attempts and
interruptions stage by stage (timeline), and a page on all of them from Prometheus (report).
Reads only.
"""


def version(repository: Path) -> str:
    """Return the version that the package has."""
    found: str = tomllib.loads((repository / "pyproject.toml").read_text())["project"]["version"]
    return found


def hand_out(repository: Path, dist: Path, url: str = "") -> tuple[Path, ...]:
    """Write the archive, and the manifest where it is known where that is published."""
    dist.mkdir(exist_ok=True)
    archive = dist / f"{NAME}-{version(repository)}.tar.gz"
    write_archive(repository, archive)
    if not url:
        return (archive,)
    manifest = dist / "goodput.yaml"
    manifest.write_text(krew_manifest(version(repository), archive, url))
    return archive, manifest


def write_archive(repository: Path, target: Path) -> None:
    """Write the archive; the same sources give the same bytes."""
    files = {NAME: (_SCRIPT.encode(), 0o755), "LICENSE": _read(repository / "LICENSE")}
    root = repository / "operator"
    for pattern in SOURCES:
        for path in root.glob(pattern):
            files[path.relative_to(root).as_posix()] = _read(path)
    tar = io.BytesIO()
    with tarfile.open(fileobj=tar, mode="w", format=tarfile.USTAR_FORMAT) as archive:
        for name, (content, mode) in sorted(files.items()):
            member = tarfile.TarInfo(name)
            member.size, member.mode, member.mtime = len(content), mode, _EPOCH
            archive.addfile(member, io.BytesIO(content))
    target.write_bytes(gzip.compress(tar.getvalue(), mtime=_EPOCH))


def _read(path: Path) -> tuple[bytes, int]:
    return path.read_bytes(), 0o644


def krew_manifest(version: str, archive: Path, url: str) -> str:
    """Return krew's manifest of an archive that is published at a URL."""
    systems = {"key": "os", "operator": "In", "values": ["linux", "darwin"]}
    manifest = {
        "apiVersion": "krew.googlecontainertools.github.com/v1alpha2",
        "kind": "Plugin",
        "metadata": {"name": "goodput"},
        "spec": {
            "version": f"v{version}",
            "shortDescription": "Show where accelerators' time of training jobs goes",
            "description": _DESCRIPTION,
            "caveats": "Needs Python 3.11 or newer; with the package rich it has colours.\n",
            "platforms": [
                {
                    "selector": {"matchExpressions": [systems]},
                    "uri": url,
                    "sha256": hashlib.sha256(archive.read_bytes()).hexdigest(),
                    "bin": NAME,
                }
            ],
        },
    }
    return yaml.safe_dump(manifest, sort_keys=False)


if __name__ == "__main__":
    for written in hand_out(REPOSITORY, REPOSITORY / "dist", *sys.argv[1:2]):
        print(written.relative_to(REPOSITORY))
