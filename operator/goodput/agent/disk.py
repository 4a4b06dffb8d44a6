"""What lies in the checkpoint directory.

A network file system may hang for ever, so everything here runs on threads that nobody waits
for.
"""

import os
import re
import threading
from dataclasses import replace
from typing import Callable, Optional

from goodput.checkpoint import layout
from goodput.protocol import Disk

TRACKER_FILES = (
    "latest_checkpointed_iteration.txt",  # Megatron-LM
    "latest",  # DeepSpeed; elsewhere a link to the newest checkpoint
    "latest_checkpoint",
    "latest_checkpoint.txt",
    "latest_step",
    "latest.txt",
)
"""Where trainers without our SDK name the step of their newest checkpoint."""

_MAX_TRACKER_BYTES = 4096
_MAX_STEP = 2**53 - 1


def survey(directory: str, probe_name: str) -> Disk:
    """Say what lies in the directory, and whether it can be used. Makes it when it is missing.

    A file `probe_name` is created there and deleted; no other pod may use the name.
    """
    try:
        os.makedirs(directory, exist_ok=True)
        found = layout.survey(directory)
    except OSError as error:
        return Disk(problem="not usable: {}".format(error))
    except Exception as error:  # noqa: BLE001 - whatever lies there, the agent goes on
        return Disk(problem="not readable: {!r}".format(error))
    # The attempt to write knows best why it cannot be done.
    problem = _cannot_write(os.path.join(directory, probe_name)) or found.problem
    return replace(found, problem=problem)


def _cannot_write(probe: str) -> str:
    try:
        with open(probe, "w"):
            pass
        os.unlink(probe)
    except OSError as error:
        return "not writable for uid {}: {}".format(os.getuid(), error)
    return ""


def survey_in_background(
    directory: str,
    probe_name: str,
    done: Callable[[Disk], None],
    stopped: threading.Event,
    again_seconds: float,
) -> None:
    """Call `done` with a survey, on another thread, if it ever comes to an end.

    A directory that cannot be used is looked at again: somebody may mend it.
    """

    def look() -> None:
        found = survey(directory, probe_name)
        done(found)
        while found.problem and not stopped.wait(again_seconds):
            found = survey(directory, probe_name)
            done(found)

    threading.Thread(target=look, name="survey", daemon=True).start()


def tracker_step(directory: str) -> Optional[int]:
    """Return the newest step that a tracker file names, None when there is none."""
    steps = [_step_of(os.path.join(directory, name)) for name in TRACKER_FILES]
    return max((step for step in steps if step is not None), default=None)


def _step_of(path: str) -> Optional[int]:
    try:
        if os.path.islink(path) and os.path.isdir(path):
            text = os.path.basename(os.readlink(path).rstrip("/"))
        else:
            with open(path, "rb") as file:
                text = file.read(_MAX_TRACKER_BYTES).decode("utf-8", "replace")
    except OSError:
        return None
    numbers = re.findall(r"[0-9]{1,16}", os.path.basename(text.strip().rstrip("/")))
    return min(int(numbers[-1]), _MAX_STEP) if numbers else None


def watch_tracker(
    directory: str, found: Callable[[int], None], stopped: threading.Event, every_seconds: float
) -> None:
    """Call `found` on another thread with each new step that a tracker file names."""

    def watch() -> None:
        known = None
        while True:
            step = tracker_step(directory)
            if step is not None and step != known:
                known = step
                found(step)
            if stopped.wait(every_seconds):
                return

    threading.Thread(target=watch, name="tracker", daemon=True).start()
