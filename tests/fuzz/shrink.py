"""Play cases, name what goes wrong, and find the smallest case in which it still does."""

import copy
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass, field

from tests.fuzz.generate import Json, case, parent, paths
from tests.fuzz.passes import ViolationError, World

SHRINK_SECONDS = 20.0


@dataclass(frozen=True, slots=True)
class Violation:
    """One thing that went wrong.

    Attributes:
        number: of the case.
        place: what, and the line of code that it came from; the same for the same bug.
        traceback: it was an error that nobody had foreseen.
    """

    number: int
    place: str
    message: str
    traceback: bool


@dataclass(slots=True)
class Outcome:
    """What came of some cases."""

    cases: int = 0
    objects: int = 0
    refused: int = 0
    visits: int = 0
    violations: list[Violation] = field(default_factory=list)


def play(made: Json, number: int = 0) -> tuple[World | None, Violation | None]:
    """Play one case; return its world, and what went wrong."""
    world: World | None = None
    try:
        world = World.of(made)
        world.play()
    except Exception as error:  # noqa: BLE001 - any error at all is what is looked for
        last = traceback.extract_tb(error.__traceback__)[-1]
        place = f"{type(error).__name__} at {last.name} ({last.filename.rpartition('/')[2]})"
        foreseen = isinstance(error, ViolationError)
        return world, Violation(number, place, str(error)[:500], traceback=not foreseen)
    return world, None


def run(seed: int, numbers: range) -> Outcome:
    """Play these cases."""
    outcome = Outcome()
    for number in numbers:
        world, violation = play(case(seed, number), number)
        outcome.cases += 1
        if world is not None:
            outcome.objects += world.objects
            outcome.refused += world.refused
            outcome.visits += world.visits
        if violation is not None:
            outcome.violations.append(violation)
    return outcome


def smallest(made: Json, goes_wrong: Callable[[Json], bool]) -> Json:
    """Return the case with all taken away without which it still goes wrong."""
    end, again = time.monotonic() + SHRINK_SECONDS, True
    while again:
        again = False
        for path in sorted(paths(made), key=len):
            if time.monotonic() > end:
                return made
            less = copy.deepcopy(made)
            try:
                del parent(less, path)[path[-1]]
            except (KeyError, IndexError, TypeError):
                continue  # what held it is gone already
            if goes_wrong(less):
                made, again = less, True
    return made


def shrunk(seed: int, violation: Violation) -> Json:
    """Return the smallest case that goes wrong at the same place."""

    def goes_wrong(less: Json) -> bool:
        found = play(less)[1]
        return found is not None and found.place == violation.place

    return smallest(case(seed, violation.number), goes_wrong)
