"""`make seeded-bugs`: plant each bug in the product, and see that a test of ours finds it.

For each variant the tests that it names run twice, without the bug and with it: all must pass
without, at least one must fail with. A variant that no longer changes the text of the product,
that cannot be imported, that no test imports or that makes a test hang is as bad as one that
survives: nothing is known of it.

    python -m tests.seeded [--variant NAME] [--discover PATH...]
"""

import argparse
import json
import os
import sys
import tempfile
import time
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.seeded.pytests import run_pytest
from tests.seeded.variants import REPOSITORY, VARIANTS, Variant, altered

MOST_SECONDS = 300.0
"""For the tests of one variant: one that makes them hang is not caught, it is unknown."""


@dataclass(frozen=True)
class Found:
    """What the tests made of the product as it was.

    Attributes:
        passed, failed: the tests, by their pytest names.
        trouble: why nothing can be said; empty when something can.
    """

    passed: Sequence[str] = ()
    failed: Sequence[str] = ()
    trouble: str = ""


@dataclass
class Count:
    """What came of all variants."""

    caught: int = 0
    survived: list[str] = field(default_factory=list)
    unknown: list[str] = field(default_factory=list)


def main() -> int:
    """Run what the command line asks for; 0 only when every variant was caught."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--variant", default="", help="only this one, or these: a,b,c")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1)
    parser.add_argument(
        "--discover", nargs="+", metavar="PATH", help="say which tests of these find the bug"
    )
    arguments = parser.parse_args()
    os.chdir(REPOSITORY)
    names = arguments.variant.split(",") if arguments.variant else sorted(VARIANTS)
    unknown = [name for name in names if name not in VARIANTS]
    if unknown:
        sys.exit(f"no such variant: {unknown[0]}; there are: {', '.join(sorted(VARIANTS))}")
    variants = [VARIANTS[name] for name in names]
    if arguments.discover:
        return _discover(variants, arguments.discover)
    began = time.monotonic()
    count = Count()
    variants = [one for one in variants if _can_be_planted(one, count)]
    good = _without_any(variants, count)
    with ThreadPoolExecutor(arguments.jobs) as pool:
        rows = pool.map(lambda one: (one, _run(one.tests, bug=one.name)), good)
        for variant, found in rows:
            _tell(variant, found, count)
    for name in count.unknown:
        print(f"UNKNOWN   {name}")
    for name in count.survived:
        print(f"SURVIVED  {name}: make seeded-bugs VARIANT={name}")
    summary = {
        "suite": "seeded-bugs",
        "variants": len(names),
        "caught": count.caught,
        "survived": len(count.survived),
        "unknown": len(count.unknown),
        "seconds": round(time.monotonic() - began),
    }
    print(json.dumps(summary))
    return 0 if count.caught == len(names) else 1


def _can_be_planted(variant: Variant, count: Count) -> bool:
    """Whether the text to be altered is there, and what comes of it is Python."""
    for path in {edit.path for edit in variant.edits}:
        edits = [edit for edit in variant.edits if edit.path == path]
        try:
            compile(altered((REPOSITORY / path).read_text(), edits), path, "exec")
        except (ValueError, SyntaxError) as error:
            print(f"{variant.name}: {error}")
            count.unknown.append(variant.name)
            return False
    return True


def _without_any(variants: Sequence[Variant], count: Count) -> list[Variant]:
    """Run all named tests on the product as it is; return the variants whose tests all pass."""
    tests = sorted({test for variant in variants for test in variant.tests})
    print(f"{len(tests)} tests without any bug", flush=True)
    found = _run(tests)
    if found.trouble:
        print(found.trouble)
    good = []
    for variant in variants:
        missing = [test for test in variant.tests if not _named(test, found.passed)]
        failing = [test for test in variant.tests if _named(test, found.failed)]
        for test in missing:
            print(f"{variant.name}: {test} does not pass without the bug, or is not there")
        if missing or failing:
            count.unknown.append(variant.name)
        else:
            good.append(variant)
    return good


def _named(test: str, run: Iterable[str]) -> bool:
    return any(one == test or one.startswith((f"{test}[", f"{test}::", f"{test}/")) for one in run)


def _run(tests: Sequence[str], *, bug: str = "", stop_at_first: bool = True) -> Found:
    """Run tests in a process of their own, with a bug or without."""
    with tempfile.TemporaryDirectory() as scratch:
        record, output = Path(scratch, "record.json"), Path(scratch, "output")
        arguments = ["-q", "-p", "no:cacheprovider", "--hypothesis-seed=0"]
        arguments += ["-W", "ignore::pytest.PytestAssertRewriteWarning"]
        arguments += ["-p", "tests.seeded.plugin", f"--seeded-record={record}"]
        if bug:
            arguments += [f"--seeded-bug={bug}"] + (["-x"] if stop_at_first else [])
        most_seconds = MOST_SECONDS if bug and stop_at_first else None
        if not run_pytest([*arguments, *tests], output, most_seconds):
            return Found(trouble=f"the tests did not end within {MOST_SECONDS:.0f} s")
        printed = output.read_text()[-2000:]
        if not record.exists():
            return Found(trouble=f"pytest gave up:\n{printed}")
        said: dict[str, Any] = json.loads(record.read_text())
    if said["broken"]:
        return Found(trouble=f"cannot be collected: {said['broken'][0][-1500:]}")
    if said["not_planted"]:
        return Found(trouble=f"no test imports {said['not_planted']}")
    if not said["outcomes"]:
        return Found(trouble=f"no test was run:\n{printed}")
    by_outcome: dict[str, list[str]] = {"passed": [], "failed": [], "skipped": []}
    for test, outcome in said["outcomes"].items():
        by_outcome[outcome].append(test)
    return Found(by_outcome["passed"], by_outcome["failed"])


def _tell(variant: Variant, found: Found, count: Count) -> None:
    if found.trouble:
        count.unknown.append(variant.name)
        print(f"{variant.name}: {found.trouble}", flush=True)
    elif not found.failed:
        count.survived.append(variant.name)
        print(f"{variant.name:<34} SURVIVED  {variant.what}", flush=True)
    else:
        count.caught += 1
        print(f"{variant.name:<34} {found.failed[0].removeprefix('tests/')}", flush=True)


def _discover(variants: Sequence[Variant], paths: Sequence[str]) -> int:
    """Say, for each variant, which of many tests find it: a help for who writes one."""
    for variant in variants:
        found = _run(paths, bug=variant.name, stop_at_first=False)
        print(f"== {variant.name}: {variant.what}")
        print(found.trouble or f"{len(found.failed)} failed, {len(found.passed)} passed")
        for test in found.failed[:40]:
            print(f"     {test}")
        sys.stdout.flush()
    return 0


if __name__ == "__main__":
    sys.exit(main())
