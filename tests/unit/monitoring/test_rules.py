"""The rules of the chart, tested by Prometheus' own tool: `*.test.yaml` say what they promise."""

import shutil
from pathlib import Path

import pytest

from e2e.support import prometheus
from monitoring.__main__ import REPOSITORY, RULES, rendered
from monitoring.rules import rule_file

HERE = Path(__file__).parent
TESTS = sorted(HERE.glob("*.test.yaml"))


@pytest.fixture
def rules(tmp_path: Path) -> Path:
    """A folder with the rules; skipped where no Prometheus can be had."""
    reason = prometheus.unavailable_reason()
    if reason is not None:
        pytest.skip(reason)
    shutil.copy(RULES, tmp_path / "rules.yaml")
    return tmp_path


def test_promtool_finds_no_fault(rules: Path) -> None:
    assert "SUCCESS" in prometheus.promtool("check", "rules", "rules.yaml", cwd=rules)


@pytest.mark.parametrize("test", TESTS, ids=lambda path: path.name.partition(".")[0])
def test_the_rules_do_what_they_promise(rules: Path, test: Path) -> None:
    shutil.copy(test, rules)
    assert "SUCCESS" in prometheus.promtool("test", "rules", test.name, cwd=rules)


def test_what_lies_in_the_chart_is_what_is_written_here() -> None:
    for path, text in rendered().items():
        assert path.read_text(encoding="utf-8") == text, f"{path}: run make dashboards"


def test_every_alert_is_tested_and_has_its_place_in_the_runbook() -> None:
    tested = (HERE / "alerts.test.yaml").read_text()
    runbook = (REPOSITORY / "docs" / "runbook.md").read_text().splitlines()
    (alerts,) = [group for group in rule_file()["groups"] if group["name"] == "goodput.alerts"]
    for rule in alerts["rules"]:
        assert f"alertname: {rule['alert']}\n" in tested
        page, _, anchor = rule["annotations"]["runbook_url"].partition("#")
        assert page == "docs/runbook.md"
        assert anchor == rule["alert"].lower(), "as it is made of a heading"
        assert f"## {rule['alert']}" in runbook
