"""Quantities and pod requests mean to us what they mean to the API server and the scheduler."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from goodput_operator.observe.resources import (
    QuantityError,
    accelerators,
    format_quantity,
    parse_quantity,
    pod_requests,
)

LARGEST = 2**63 - 1


@pytest.mark.parametrize(
    ("name", "text", "amount"),
    [
        ("cpu", "2", 2000),
        ("cpu", "100m", 100),
        ("cpu", "0.1", 100),
        ("cpu", ".5", 500),
        ("cpu", "5.", 5000),
        ("cpu", "1n", 1),
        ("cpu", "1e3", 1_000_000),
        ("cpu", 4, 4000),
        ("cpu", 0.5, 500),
        ("memory", "1Ki", 1024),
        ("memory", "1.5Gi", 3 * 2**29),
        ("memory", "2Ei", 2**61),
        ("memory", "1k", 1000),
        ("memory", "1E", 10**18),
        ("memory", "1E3", 1000),
        ("memory", "12e6", 12_000_000),
        ("memory", "5E-1", 1),
        ("memory", "128974848000m", 128_974_848),
        ("memory", "100m", 1),
        ("nvidia.com/gpu", "8", 8),
        ("x", "-1", -1),
        ("x", "+1", 1),
        ("x", "1e9999999999", LARGEST),
        ("x", "1e-9999999999", 1),
        ("x", "0e9999999999", 0),
        pytest.param("x", 10**5000, LARGEST, id="an absurd number"),
    ],
)
def test_a_quantity_in_any_notation_is_rounded_up(name: str, text: object, amount: int) -> None:
    assert parse_quantity(name, text) == amount


@pytest.mark.parametrize(
    "text",
    [
        *("", "Gi", "1 Gi", "1gi", "1KI", "1e", "--1", "1.2.3", "0x10", "nan", "١", "1\n"),
        *("9" * 200, None, True, [], {}, float("nan"), float("inf")),
    ],
)
def test_what_is_no_quantity_is_refused(text: object) -> None:
    with pytest.raises(QuantityError, match="is not a quantity"):
        parse_quantity("cpu", text)


@pytest.mark.parametrize(
    ("name", "amount", "text"),
    [
        ("cpu", 2000, "2"),
        ("cpu", 1500, "1500m"),
        ("memory", 64 * 2**30, "64Gi"),
        ("memory", 3 * 2**29, "1.5Gi"),
        ("memory", 1000, "1000"),
        ("hugepages-2Mi", 2**21, "2Mi"),
        ("nvidia.com/gpu", 2048, "2048"),
    ],
)
def test_amounts_are_printed_as_people_write_them(name: str, amount: int, text: str) -> None:
    assert format_quantity(name, amount) == text


@given(st.sampled_from(["cpu", "nvidia.com/gpu"]), st.integers(0, 10**9))
def test_a_printed_amount_reads_back(name: str, amount: int) -> None:
    assert parse_quantity(name, format_quantity(name, amount)) == amount


def container(cpu: str = "0", restart: str | None = None, **more: Any) -> dict[str, Any]:
    return {
        "resources": {"requests": {"cpu": cpu}, **more},
        **({"restartPolicy": restart} if restart else {}),
    }


@pytest.mark.parametrize(
    ("spec", "cpu"),
    [
        pytest.param(
            {"containers": [container("1"), container("2")]}, 3000, id="containers add up"
        ),
        pytest.param(
            {
                "initContainers": [container("4"), container("2")],
                "containers": [container("1")],
            },
            4000,
            id="init containers run one after the other",
        ),
        pytest.param(
            {
                "initContainers": [container("1", "Always"), container("4")],
                "containers": [container("2")],
            },
            5000,
            id="a sidecar runs beside the init containers after it",
        ),
        pytest.param(
            {
                "initContainers": [container("4"), container("1", "Always")],
                "containers": [container("2")],
            },
            4000,
            id="but not beside those before it",
        ),
        pytest.param(
            {"initContainers": [container("3", "Always")], "containers": [container("2")]},
            5000,
            id="and beside the containers",
        ),
        pytest.param(
            {"containers": [container("1")], "overhead": {"cpu": "250m"}},
            1250,
            id="overhead comes on top",
        ),
        pytest.param(
            {"containers": [container("1")], "resources": {"requests": {"cpu": "8"}}},
            8000,
            id="pod-level requests replace the sum",
        ),
        pytest.param(
            {"containers": [container("1")], "resources": {"limits": {"cpu": "8"}}},
            1000,
            id="a pod-level limit does not, where containers ask",
        ),
        pytest.param(
            {"containers": [{}], "resources": {"limits": {"cpu": "8"}}},
            8000,
            id="but does where none asks",
        ),
        pytest.param(
            {"containers": [{"resources": {"limits": {"cpu": "2"}}}]},
            2000,
            id="a limit without a request is one",
        ),
        pytest.param(
            {"containers": [container("1", limits={"cpu": "2"})]},
            1000,
            id="a request beside a limit counts",
        ),
    ],
)
def test_a_pod_is_counted_as_the_scheduler_counts_it(spec: dict[str, Any], cpu: int) -> None:
    assert pod_requests(spec) == {"cpu": cpu, "pods": 1}


def test_pod_level_requests_do_not_replace_accelerators() -> None:
    spec = {
        "containers": [{"resources": {"limits": {"nvidia.com/gpu": 8}}}],
        "resources": {"requests": {"nvidia.com/gpu": 1, "memory": "1Gi"}},
    }
    assert pod_requests(spec) == {"nvidia.com/gpu": 8, "memory": 2**30, "pods": 1}


def test_a_wrong_amount_is_named() -> None:
    with pytest.raises(QuantityError, match="memory: '64 GB' is not a quantity"):
        pod_requests({"containers": [{"resources": {"requests": {"memory": "64 GB"}}}]})


@pytest.mark.parametrize(
    ("requests", "number"),
    [
        ({"cpu": 8000, "memory": 2**30, "pods": 1}, 0),
        ({"nvidia.com/gpu": 8, "cpu": 1}, 8),
        ({"amd.com/gpu": 4}, 4),
        ({"google.com/tpu": 4}, 4),
        ({"aws.amazon.com/neuron": 16}, 16),
        ({"habana.ai/gaudi": 8}, 8),
        ({"nvidia.com/mig-1g.5gb": 3}, 3),
        ({"huawei.com/Ascend910": 8}, 8),
        ({"vpc.amazonaws.com/efa": 4, "rdma/hca": 1}, 0),
    ],
)
def test_accelerators_of_every_vendor_are_counted_and_nothing_else(
    requests: dict[str, int], number: int
) -> None:
    assert accelerators(requests) == number
