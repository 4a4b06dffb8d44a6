"""The chart's rules for a test, which has no month to wait, and what a panel shows of them."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import yaml

from e2e.cluster.progress import wait_until
from e2e.support.prometheus import Prometheus
from monitoring.rules import PRICE, TARGET, Times, rule_file

GPU = "nvidia.com/gpu"
TIMES = Times(
    slice="5s",
    memory="60s",
    windows={"1h": "20s", "1d": "60s", "30d": "120s"},
    evaluation="1s",
    patience=False,
)


def rules() -> dict[str, Any]:
    """Return the rules with a target that nothing reaches, and a price."""
    made = rule_file(TIMES)
    made["groups"][0]["rules"] = [
        {"record": TARGET, "expr": "vector(0.999)"},
        {"record": PRICE, "expr": "vector(3600)", "labels": {"accelerator": GPU}},
    ]
    return made


def write_rules(directory: Path) -> Path:
    """Write them into a directory, and return the file."""
    file = directory / "rules.yaml"
    file.write_text(yaml.safe_dump(rules()))
    return file


def wait_seen(seen: Prometheus, expression: str, timeout_seconds: float = 60) -> None:
    """Return once an expression gives something.

    Raises:
        WaitTimeoutError: it gave nothing in time.
    """
    wait_until(lambda: seen.query(expression), expression, timeout_seconds, 0.5)


def failed_rules(seen: Prometheus) -> dict[str, str]:
    """Return the rules that Prometheus could not work out, with its words."""
    groups = seen.ask("rules", {})["groups"]
    found = {rule["name"]: rule.get("lastError", "") for one in groups for rule in one["rules"]}
    return {name: error for name, error in found.items() if error}


def unrecorded(seen: Prometheus, begin: float) -> set[str]:
    """Return the rules that have recorded nothing since `begin`."""
    names = {
        rule["record"] for group in rules()["groups"] for rule in group["rules"] if "record" in rule
    }
    return {name for name in names if not seen.query_range(name, begin, time.time(), 2.0)}
