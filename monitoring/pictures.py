"""Draw the fleet's and a job's dashboard into docs/pictures; a part of `make dashboards`.

The operator's own dashboard is not drawn: on a virtual clock its numbers would mean nothing.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

from monitoring import history
from monitoring.__main__ import REPOSITORY
from monitoring.asking import Shown
from monitoring.dashboards import fleet, job
from monitoring.draw import draw

PICTURES = REPOSITORY / "docs" / "pictures"
STEP_SECONDS = 300.0


def main() -> None:
    """Play, remember, draw."""
    told = history.play()
    first = history.JOBS[0].name
    shown = Shown(
        begin=history.begin(),
        end=history.end(),
        step_seconds=STEP_SECONDS,
        scrape_seconds=history.SCRAPE_SECONDS,
        chosen={"namespace": "lab", "job": first},
    )
    with (
        tempfile.TemporaryDirectory(prefix="goodput-history-") as directory,
        history.remembered(told, Path(directory)) as prometheus,
    ):
        PICTURES.mkdir(parents=True, exist_ok=True)
        for dashboard in (fleet(), job()):
            name = dashboard.uid.removeprefix("goodput-")
            (PICTURES / f"{name}.svg").write_text(draw(dashboard, prometheus, shown))


if __name__ == "__main__":
    main()
