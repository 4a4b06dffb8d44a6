"""A small and always the same part of `make fuzz`, and proof that the rest would tell."""

import json

import pytest

from goodput_operator.plan import conditions
from tests.fuzz import shrink
from tests.fuzz.generate import SPEC, STATUS, case
from tests.fuzz.passes import problems

SEED = 1
CHUNK = 100


@pytest.mark.parametrize("begin", range(0, 600, CHUNK))
def test_no_job_makes_a_pass_fall_over(begin: int) -> None:
    outcome = shrink.run(SEED, range(begin, begin + CHUNK))
    assert outcome.violations == []
    assert outcome.objects > CHUNK
    assert 0 < outcome.refused < outcome.objects < outcome.visits


def test_a_case_is_the_same_for_the_same_seed_and_can_be_printed() -> None:
    assert case(SEED, 7) == case(SEED, 7) == json.loads(json.dumps(case(SEED, 7)))
    assert case(SEED, 7) != case(SEED, 8)


def test_a_bug_is_found_and_its_job_shrunk(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object) -> object:
        raise ZeroDivisionError

    monkeypatch.setattr(conditions, "_degraded", broken)
    outcome = shrink.run(SEED, range(20))
    assert outcome.violations
    first = outcome.violations[0]
    assert first.traceback
    assert "ZeroDivisionError at broken" in first.place
    small = shrink.shrunk(SEED, first)
    assert len(json.dumps(small)) < len(json.dumps(case(SEED, first.number)))


@pytest.mark.parametrize(
    ("schema", "value", "word"),
    [
        pytest.param(SPEC, {"workers": 0, "template": {"spec": {}}}, "workers", id="a border"),
        pytest.param(SPEC, {"template": {"spec": {}}}, "required", id="what is missing"),
        pytest.param(
            STATUS, {"conditions": [{"type": "Ready"}] * 2}, "twice", id="a key that stands twice"
        ),
        pytest.param(STATUS, {"attempt": {"openedAt": "now"}}, "no time", id="a time"),
        pytest.param(STATUS, {"ledger": {"accelerators": 2**63}}, "range", id="a huge number"),
    ],
)
def test_what_the_api_server_would_refuse_is_known(
    schema: object, value: object, word: str
) -> None:
    assert any(word in one for one in problems(schema, value, "it"))
