"""`make mutants WHERE=path`: change one module in every small way, and see that a test notices.

mutmut does the work, in a copy of the sources outside the checkout, with the module's own unit
tests and mypy (a change that the type checker refuses needs no test). What survives is shown as
a difference. It is told apart:

- *wording*: nothing but the words of a sentence have changed (a text with a space in it, which
  people read and no program); tests that pin sentences down would only make them hard to mend;
- *equivalent*: `equivalent.py` says why no test can see this change;
- *survived*: a test is missing.

    python -m tests.mutation PATH... [--jobs N]
"""

import argparse
import contextlib
import json
import os
import re
import shutil
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from mutmut.mutation.diff_apply import get_diff_for_mutant

from tests.mutation.equivalent import EQUIVALENT

REPOSITORY = Path(__file__).parents[2]
CACHE = Path(os.environ.get("GOODPUT_CACHE") or Path.home() / ".cache" / "goodput")

PLAN = " ".join(
    f"tests/unit/plan/test_{name}.py" for name in ("life", "end", "gang", "recovery", "attempt")
)
"""Without its properties, which take longer than all the rest."""

TESTS = {
    "operator/goodput_operator/plan": PLAN,
    "operator/goodput_operator/ledger": f"tests/unit/ledger {PLAN}",
    "operator/goodput_operator/diagnose": f"tests/unit/diagnose {PLAN}",
    "operator/goodput_operator/observe/resources.py": "tests/unit/gang/test_resources.py",
    "operator/goodput_operator/observe/trim.py": "tests/unit/effects/test_trim.py",
    "operator/goodput_operator/observe/agents.py": "tests/unit/reports/test_store.py",
    "operator/goodput_operator/observe": f"tests/unit/observe {PLAN}",
    "operator/goodput_operator/gang": "tests/unit/gang",
    "operator/goodput_operator/render": "tests/unit/render",
    "operator/goodput_operator/api": "tests/unit/api tests/unit/render",
    "operator/goodput/agent/core.py": "tests/unit/agent/test_core.py",
    "operator/goodput/checkpoint": (
        "tests/unit/sdk/test_prune.py tests/unit/sdk/test_lineage.py tests/unit/sdk/test_layout.py "
        "tests/unit/sdk/test_restore.py tests/unit/sdk/test_saving.py"
    ),
}
"""The tests of a module, by the longest beginning of its path."""

KILLED = frozenset({1, 3})
SURVIVED, NO_TESTS, BY_TYPES = 0, (5, 33), 37


@dataclass(frozen=True)
class Survivor:
    """A change that no test notices: the function, and the lines before and after."""

    name: str
    before: str
    after: str

    @property
    def is_wording(self) -> bool:
        """Whether nothing has changed but sentences."""
        return self.before != self.after and _silenced(self.before) == _silenced(self.after)


def main() -> int:
    """Mutate each module that is named; 0 when nothing survives that should not."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("paths", nargs="+", metavar="PATH", help="a module, or a folder of them")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1)
    arguments = parser.parse_args()
    modules = [one for path in arguments.paths for one in _modules(Path(path))]
    if not modules:
        sys.exit("no module is there")
    results = [_mutate(module, arguments.jobs) for module in modules]
    print(json.dumps({"suite": "mutants", **dict(sum(results, Counter()))}))
    return 0 if all(one["survived"] == one["unknown"] == 0 for one in results) else 1


def _modules(path: Path) -> list[str]:
    whole = (REPOSITORY / path).resolve()
    found = sorted(whole.rglob("*.py")) if whole.is_dir() else [whole]
    return [
        str(one.relative_to(REPOSITORY))
        for one in found
        if one.is_file() and "def " in one.read_text()
    ]


def _mutate(module: str, jobs: int) -> Counter[str]:
    began = time.monotonic()
    copy = CACHE / "mutants" / module.removesuffix(".py").replace("/", "-")
    tests = _tests_of(module)
    print(f"{module}, by {' '.join(tests)}", flush=True)
    _copy_sources(copy, module, tests)
    log = copy / "mutmut.log"
    with log.open("w") as out:
        mutmut = Path(sys.executable).with_name("mutmut")
        command = [str(mutmut), "run", "--max-children", str(jobs)]
        done = subprocess.run(command, cwd=copy, check=False, stdout=out, stderr=out)
    if done.returncode != 0:
        sys.exit(f"mutmut failed, see {log}:\n{log.read_text()[-3000:]}")
    source = module.replace("operator/", "src/", 1)
    meta = json.loads((copy / "mutants" / f"{source}.meta").read_text())
    codes: dict[str, int | None] = meta["exit_code_by_key"]
    count = Counter(
        mutants=len(codes), killed=0, by_types=0, wording=0, equivalent=0, survived=0, unknown=0
    )
    for name, code in codes.items():
        if code in KILLED:
            count["killed"] += 1
        elif code == BY_TYPES:
            count["by_types"] += 1
        elif code == SURVIVED or code in NO_TESTS:
            _tell(module, _survivor(copy, source, name), count, tested=code == SURVIVED)
        elif code is not None and code in (-24, 24, 152, 255, 36):
            count["killed"] += 1  # an endless loop: no test would pass
        else:
            count["unknown"] += 1
            print(f"  {name}: mutmut says {code}")
    count["seconds"] = round(time.monotonic() - began)
    print(f"  {module}: {dict(count)}", flush=True)
    return count


def _tests_of(module: str) -> list[str]:
    prefix = max((one for one in TESTS if module.startswith(one)), key=len, default="")
    if not prefix:
        sys.exit(f"no tests are known for {module}: add them to tests/mutation/__main__.py")
    return [one for one in TESTS[prefix].split() if (REPOSITORY / one).exists()]


def _copy_sources(copy: Path, module: str, tests: Sequence[str]) -> None:
    """Lay the sources out as mutmut wants them: it knows `src`, and nothing of `operator`."""
    shutil.rmtree(copy, ignore_errors=True)
    copy.mkdir(parents=True)
    skipped = shutil.ignore_patterns("__pycache__")
    shutil.copytree(REPOSITORY / "operator", copy / "src", ignore=skipped)
    for name in ("tests", "crds", "examples"):
        shutil.copytree(REPOSITORY / name, copy / name, ignore=skipped)
    settings = (REPOSITORY / "pyproject.toml").read_text()
    settings = settings.replace('pythonpath = ["operator", "."]', 'pythonpath = ["src", "."]')
    settings = settings.replace('mypy_path = "operator"', 'mypy_path = "src"')
    source = module.replace("operator/", "src/", 1)
    # All variants of a method stand in one class, and each may declare the same attribute.
    lenient = ["--no-warn-unused-ignores", "--disable-error-code=no-redef"]
    checker = [sys.executable, "-m", "mypy", "--output=json", *lenient, source]
    mine = {
        "source_paths": ["src"],
        "only_mutate": [source],
        "also_copy": ["crds", "examples"],
        "pytest_add_cli_args": ["-p", "no:cacheprovider", "--hypothesis-seed=0"],
        "pytest_add_cli_args_test_selection": list(tests),
        "type_check_command": checker,
    }
    lines = [f"{key} = {json.dumps(value)}" for key, value in mine.items()]
    (copy / "pyproject.toml").write_text("\n".join([settings, "[tool.mutmut]", *lines, ""]))


def _survivor(copy: Path, source: str, name: str) -> Survivor:
    with contextlib.chdir(copy):
        shown = get_diff_for_mutant(name, path=Path(source)).splitlines()
    body = [line for line in shown if not line.startswith(("+++", "---", "@@", "#"))]
    before = [line[1:].strip() for line in body if line.startswith("-")]
    after = [line[1:].strip() for line in body if line.startswith("+")]
    return Survivor(name, "\n".join(before), "\n".join(after))


def _tell(module: str, survivor: Survivor, count: Counter[str], *, tested: bool) -> None:
    if survivor.is_wording:
        count["wording"] += 1
        return
    if (module, survivor.before, survivor.after) in EQUIVALENT:
        count["equivalent"] += 1
        return
    count["survived"] += 1
    print(f"  {survivor.name}{'' if tested else ' (no test comes here)'}")
    for sign, text in (("-", survivor.before), ("+", survivor.after)):
        for line in text.splitlines():
            print(f"      {sign} {line}")


def _silenced(text: str) -> str:
    """Return code with the words of its sentences taken out."""
    return re.sub(r"""(f?)("(?:[^"\\]|\\.)*"|'(?:[^'\\]|\\.)*')""", _hushed, text)


def _hushed(literal: re.Match[str]) -> str:
    prefix, text = literal[1], literal[2]
    if " " not in text:
        return literal[0]
    return "".join(["<", prefix, *_parts(text), ">"])


def _parts(text: str) -> Iterator[str]:
    """Yield what a sentence names: the parts in braces, which are code."""
    yield from re.findall(r"\{[^{}]*\}", text)


if __name__ == "__main__":
    sys.exit(main())
