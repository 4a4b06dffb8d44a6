"""What was found out about this very state of the code; so a broken-off sweep can go on."""

import hashlib
import json
import subprocess
from pathlib import Path
from typing import Any

from e2e.cluster.paths import REPOSITORY, cache_dir

CODE = ("operator", "crds", "tests", "e2e", "requirements-dev.lock")


class Memory:
    """Results by plan, in a file that grows by a line for each.

    Args:
        path: the file; None remembers nothing beyond this process.
    """

    def __init__(self, path: Path | None) -> None:
        self._path = path
        self._known: dict[str, Any] = {}
        if path is not None and path.exists():
            for line in path.read_text().splitlines():
                try:
                    name, result = json.loads(line)
                except ValueError:
                    continue  # cut off in the middle
                self._known[name] = result

    @classmethod
    def of_this_code(cls) -> "Memory":
        """Return the memory of the checkout as it is now, committed or not."""
        return cls(cache_dir() / "sweep" / f"{state_of_the_code()}.jsonl")

    def get(self, name: str) -> Any:
        """Return what is known of a plan, None when nothing is."""
        return self._known.get(name)

    def put(self, name: str, result: Any) -> None:
        """Remember the result of a plan."""
        self._known[name] = result
        if self._path is not None:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            with self._path.open("a") as file:
                file.write(json.dumps([name, result]) + "\n")


def state_of_the_code() -> str:
    """Return a name for all that a sweep depends on: the commit, and what differs from it."""
    digest = hashlib.sha256()
    for argv in (["diff", "HEAD", "--", *CODE], ["rev-parse", *(f"HEAD:{name}" for name in CODE)]):
        digest.update(_git(*argv))
    for name in sorted(_git("ls-files", "-o", "--exclude-standard", *CODE).decode().split()):
        digest.update(name.encode() + (REPOSITORY / name).read_bytes())
    return digest.hexdigest()[:16]


def commit() -> str:
    """Return the commit, with a plus sign when the checkout differs from it."""
    changed = _git("status", "--porcelain", "--", *CODE)
    return _git("rev-parse", "--short", "HEAD").decode().strip() + ("+" if changed else "")


def _git(*words: str) -> bytes:
    return subprocess.run(["git", *words], cwd=REPOSITORY, check=True, capture_output=True).stdout
