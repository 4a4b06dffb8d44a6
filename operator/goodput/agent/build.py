"""Build the zipapp in which the agent and the SDK travel. Runs when the image is built."""

import sys
import zipfile
from pathlib import Path

_EPOCH = (1980, 1, 1, 0, 0, 0)
"""The same sources give the same bytes."""


def build_zipapp(source_root: Path, target: Path) -> None:
    """Write the zipapp.

    Nothing is compressed: a Python without zlib can read it, and the bytes do not depend on
    the version of zlib.

    Args:
        source_root: the directory that holds the package `goodput`.
        target: the file to write.
    """
    package = source_root / "goodput"
    entries = {"__main__.py": (package / "agent" / "__main__.py").read_bytes()}
    for path in package.rglob("*.py"):
        entries[path.relative_to(source_root).as_posix()] = path.read_bytes()
    with zipfile.ZipFile(target, "w", zipfile.ZIP_STORED) as archive:
        for name, content in sorted(entries.items()):
            info = zipfile.ZipInfo(name, _EPOCH)
            info.external_attr = 0o644 << 16
            info.create_system = 3  # Unix, wherever it is built
            archive.writestr(info, content)


if __name__ == "__main__":
    build_zipapp(Path(sys.argv[1]), Path(sys.argv[2]))
