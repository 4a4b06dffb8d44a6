"""Print what was measured."""

from __future__ import annotations

import json
import signal
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from statistics import median
from typing import Any

from e2e.cluster.progress import say


def begin(name: str) -> None:
    """Say which benchmark begins, and how busy the machine is without it; SIGTERM ends it well."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # what was started is to be ended
    load = Path("/proc/loadavg").read_text().split()[0]
    say(f"{name}; the machine's load average is {load}")


def finish(figures: Mapping[str, Any], digits: int = 3) -> None:
    """Print the one JSON line, numbers rounded to what they can mean."""
    print(json.dumps(_rounded(figures, digits)), flush=True)


def seconds(values: Iterable[float]) -> str:
    """Return measurements and their median, in words."""
    listed = list(values)
    return f"{median(listed):.2f} s ({', '.join(f'{value:.2f}' for value in listed)})"


def _rounded(value: Any, digits: int) -> Any:
    if isinstance(value, Mapping):
        return {key: _rounded(inner, digits) for key, inner in value.items()}
    return round(value, digits) if isinstance(value, float) else value
