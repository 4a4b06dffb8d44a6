"""Draw the dashboards into docs/pictures; a part of `make dashboards`.

What they show has happened: three jobs train on a real cluster, one of them is broken five ways
(`e2e.support.story`), and a Prometheus beside it scrapes the operator every second. Only the
rules look more often than the chart's, for these are minutes and no days.
"""

from __future__ import annotations

import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import yaml

from e2e.cluster import Cluster, unavailable_reason
from e2e.cluster.images import build_static_images
from e2e.cluster.progress import say, step
from e2e.support import prometheus
from e2e.support.installation import Operator
from e2e.support.prometheus import Prometheus
from e2e.support.story import Story
from e2e.support.suite import is_up, shared_cluster
from e2e.support.watching import GPU, wait_seen
from monitoring.__main__ import REPOSITORY
from monitoring.asking import Shown
from monitoring.dashboards import dashboards
from monitoring.draw import draw
from monitoring.rules import PRICE, Times, rule_file

PICTURES = REPOSITORY / "docs" / "pictures"
NAMESPACE = "lab"
PRICE_PER_HOUR = 2.5
SLICE_SECONDS = 30
STEP_SECONDS = 5.0
TIMES = Times(slice=f"{SLICE_SECONDS}s", evaluation=f"{SLICE_SECONDS}s", patience=False)
STEPS, STEPS_BETWEEN, CHECKPOINT_EVERY = 900, 140, 55


def main() -> None:
    """Let it happen, look on, draw."""
    reason = prometheus.unavailable_reason() or (not is_up() and unavailable_reason("node"))
    if reason:
        say(f"the pictures stay as they are: {reason}")
        return
    with shared_cluster():
        cluster = Cluster.attach()
        with step("installing the operator"):
            for archive in build_static_images():
                cluster.load_image(archive)
            operator = Operator.install(cluster)
        with _namespace(cluster), _watched(operator) as seen:
            _draw(seen, *_happen(cluster, operator, seen))


def _happen(cluster: Cluster, operator: Operator, seen: Prometheus) -> tuple[float, float]:
    """Return when it began and when it was over, in seconds since the epoch."""
    began = time.time()
    with step("training, and breaking what trains"):
        story = Story.begin(
            cluster,
            NAMESPACE,
            steps=STEPS,
            checkpoint_every=CHECKPOINT_EVERY,
            nodes_wanted=len(cluster.nodes),
        )
        story.break_it(operator, STEPS_BETWEEN)
        story.broken.wait_phase("Succeeded")
        story.waits.wait_phase("Succeeded")
        wait_seen(seen, 'goodput_job_phase{job="waits", phase="Succeeded"}')
        ended = time.time()
        wait_seen(seen, f"timestamp(cluster:goodput:ratio_1h) > {ended + SLICE_SECONDS}")
    return began, ended


def _draw(seen: Prometheus, began: float, ended: float) -> None:
    chosen = {"namespace": NAMESPACE, "job": "broken"}
    shown = Shown(began, ended + SLICE_SECONDS, STEP_SECONDS, 1.0, chosen)
    PICTURES.mkdir(parents=True, exist_ok=True)
    for dashboard in dashboards(TIMES):
        name = dashboard.uid.removeprefix("goodput-")
        (PICTURES / f"{name}.svg").write_text(draw(dashboard, seen, shown))


@contextmanager
def _watched(operator: Operator) -> Iterator[Prometheus]:
    """Run a Prometheus that scrapes both replicas and works out the chart's rules."""
    rules = rule_file(TIMES)
    price = {"record": PRICE, "expr": f"vector({PRICE_PER_HOUR})", "labels": {"accelerator": GPU}}
    rules["groups"][0]["rules"].append(price)
    with tempfile.TemporaryDirectory(prefix="goodput-pictures-") as directory:
        file = Path(directory) / "rules.yaml"
        file.write_text(yaml.safe_dump(rules))
        configured = prometheus.configuration(operator.metrics_targets(), [file])
        with prometheus.serving(configured) as server:
            wait_seen(server, "goodput_operator_leader == 1")
            yield server


@contextmanager
def _namespace(cluster: Cluster) -> Iterator[None]:
    cluster.kubectl("create", "namespace", NAMESPACE)
    try:
        yield
    finally:
        cluster.kubectl("delete", "namespace", NAMESPACE, "--wait=false", check=False)
        shutil.rmtree(cluster.shared_dir / NAMESPACE, ignore_errors=True)


if __name__ == "__main__":
    main()
