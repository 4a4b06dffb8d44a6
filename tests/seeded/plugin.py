"""Plants one bug in the product while pytest runs, and writes down what the tests made of it.

The product knows nothing of it: a finder on `sys.meta_path` hands the interpreter an altered
text of one module. Where the text to be altered is not there exactly once, nothing runs: a
variant that no longer changes anything would pass for a bug that no test can find.
"""

import json
import sys
from collections.abc import Mapping, Sequence
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder, SourceFileLoader
from pathlib import Path
from types import CodeType, ModuleType
from typing import Any

import pytest

from tests.seeded.variants import VARIANTS, Edit, altered


class _Loader(SourceFileLoader):
    """Compiles the altered text; nothing of it is ever cached."""

    def __init__(self, name: str, path: str, edits: Sequence[Edit]) -> None:
        super().__init__(name, path)
        self._edits = edits

    def get_code(self, fullname: str) -> CodeType:
        path = self.get_filename(fullname)
        text = altered(Path(path).read_text(), self._edits)
        return self.source_to_code(text.encode(), path)


class Planter(MetaPathFinder):
    """Finds the modules that have a bug; every other is left to the usual finders."""

    def __init__(self, edits: Sequence[Edit]) -> None:
        self.planted: set[str] = set()
        self._edits: dict[str, list[Edit]] = {}
        for edit in edits:
            self._edits.setdefault(edit.module, []).append(edit)
        early = sorted(self._edits.keys() & sys.modules.keys())
        assert not early, f"imported before the bug could be planted: {early}"

    @property
    def missing(self) -> list[str]:
        """The modules that nobody has imported, so that no test can have met the bug."""
        return sorted(self._edits.keys() - self.planted)

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        edits = self._edits.get(fullname)
        spec = PathFinder.find_spec(fullname, path, target) if edits else None
        if spec is None or spec.origin is None or edits is None:
            return None
        self.planted.add(fullname)
        spec.loader = _Loader(fullname, spec.origin, edits)
        return spec


class Record:
    """Writes what came of each test, and what could not even be collected."""

    def __init__(self, path: Path, planter: Planter | None) -> None:
        self._path = path
        self._planter = planter
        self._outcomes: dict[str, str] = {}
        self._broken: list[str] = []

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        if report.failed:
            self._broken.append(f"{report.nodeid}: {report.longreprtext}")

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        known = self._outcomes.get(report.nodeid)
        if known is None or (known == "passed" and report.outcome != "passed"):
            self._outcomes[report.nodeid] = report.outcome

    def pytest_sessionfinish(self) -> None:
        said: Mapping[str, Any] = {
            "outcomes": self._outcomes,
            "broken": self._broken,
            "not_planted": self._planter.missing if self._planter else [],
        }
        self._path.write_text(json.dumps(said))


_PLANTER = pytest.StashKey[Planter]()


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the two options by which `tests.seeded` runs pytest."""
    group = parser.getgroup("seeded bugs")
    group.addoption("--seeded-bug", metavar="NAME", help="plant this bug in the product")
    group.addoption("--seeded-record", metavar="FILE", help="write what came of each test")


@pytest.hookimpl(tryfirst=True)
def pytest_load_initial_conftests(early_config: pytest.Config) -> None:
    """Plant the bug before anything of the product is imported."""
    name = early_config.known_args_namespace.seeded_bug
    if name is not None:
        planter = Planter(VARIANTS[name].edits)
        early_config.stash[_PLANTER] = planter
        sys.meta_path.insert(0, planter)


def pytest_configure(config: pytest.Config) -> None:
    """Begin the record."""
    path = config.getoption("--seeded-record")
    if path is not None:
        config.pluginmanager.register(Record(Path(path), config.stash.get(_PLANTER, None)))
