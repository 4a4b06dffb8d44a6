"""Read Kubernetes resource quantities as integers, and a pod's requests as kube-scheduler does.

Pure. `effects.caches` folds foreign pods to `pod_requests` when they come in, `gang` counts
with them, `render` counts accelerators, and messages print them with `format_quantity`.

Sources: apimachinery `resource.Quantity`; component-helpers `resource.PodRequests`; KEP-753
(sidecar containers), KEP-688 (overhead), KEP-2837 (pod-level resources). The second value that
a pod has while it is being resized in place (`status.containerStatuses[].resources`, KEP-1287)
is not looked at.
"""

import re
import reprlib
from collections.abc import Mapping
from fractions import Fraction
from functools import lru_cache
from math import ceil
from typing import Any, Final

from goodput_operator.errors import GoodputError

Resources = Mapping[str, int]
"""Amounts by resource name: milli for cpu, bytes, or counts. A pod itself is 1 of `pods`."""

CPU: Final = "cpu"
MEMORY: Final = "memory"
EPHEMERAL_STORAGE: Final = "ephemeral-storage"
PODS: Final = "pods"
HUGEPAGES_PREFIX: Final = "hugepages-"

ACCELERATORS: Final = frozenset(
    {
        "amd.com/gpu",
        "aws.amazon.com/neuron",
        "aws.amazon.com/neuroncore",
        "aws.amazon.com/neurondevice",
        "birentech.com/gpu",
        "cambricon.com/mlu",
        "cloud-tpus.google.com/v2",
        "cloud-tpus.google.com/v3",
        "enflame.com/gcu",
        "google.com/tpu",
        "gpu.intel.com/i915",
        "gpu.intel.com/xe",
        "habana.ai/gaudi",
        "hygon.com/dcu",
        "iluvatar.com/gpu",
        "intel.com/gpu",
        "kunlunxin.com/xpu",
        "metax-tech.com/gpu",
        "mthreads.com/gpu",
        "nvidia.com/gpu",
        "nvidia.com/gpu.shared",
        "qualcomm.com/qaic",
        "rebellions.ai/ATOM",
    }
)
ACCELERATOR_PREFIXES: Final = (
    "huawei.com/Ascend",
    "nvidia.com/mig-",
    "furiosa.ai/",
    "amd.com/cpx_",
)
"""Extended resources that stand for accelerators, or for slices that a process uses like one."""

_QUANTITY = re.compile(
    r"(?P<sign>[+-]?)(?P<number>[0-9]+\.?[0-9]*|\.[0-9]+)"
    r"(?:(?P<suffix>[numkMGTPE]|[KMGTPE]i)|[eE](?P<exponent>[+-]?[0-9]+))?"
)
_SCALES: Final = {
    "": Fraction(1),
    "n": Fraction(1, 10**9),
    "u": Fraction(1, 10**6),
    "m": Fraction(1, 1000),
    **{unit: Fraction(1000**power) for power, unit in enumerate("kMGTPE", 1)},
    **{f"{unit}i": Fraction(1024**power) for power, unit in enumerate("KMGTPE", 1)},
}
_LONGEST_TEXT = 128
_LARGEST = 2**63 - 1
_EXPONENT_LIMIT = 2 * _LONGEST_TEXT  # beyond it any such number is 0 or too large all the same


class QuantityError(GoodputError, ValueError):
    """A text is not a Kubernetes quantity; trying again cannot help."""


def parse_quantity(name: str, text: object) -> int:
    """Return an amount of the resource `name`: milli for cpu, else whole units; rounded up.

    JSON numbers are read as the API server reads them. Amounts beyond 2**63 - 1 are cut there.

    Raises:
        QuantityError: `text` is no quantity.
    """
    if isinstance(text, bool) or not isinstance(text, str | int | float):
        raise QuantityError(f"{reprlib.repr(text)} is not a quantity")
    if isinstance(text, int):
        text = max(-_LARGEST, min(text, _LARGEST))  # str() refuses the very large ones
    return _parse(str(text), 1000 if name == CPU else 1)


@lru_cache(maxsize=4096)
def _parse(text: str, units: int) -> int:
    match = _QUANTITY.fullmatch(text) if len(text) <= _LONGEST_TEXT else None
    if match is None:
        raise QuantityError(f"{reprlib.repr(text)} is not a quantity")
    exponent = max(-_EXPONENT_LIMIT, min(int(match["exponent"] or 0), _EXPONENT_LIMIT))
    scale = _SCALES[match["suffix"] or ""] * Fraction(10) ** exponent
    size = min(ceil(Fraction(match["number"]) * scale * units), _LARGEST)  # away from zero
    return -size if match["sign"] == "-" else size


def format_quantity(name: str, amount: int) -> str:
    """Return an amount as a person writes it: "8", "1500m", "64Gi", "1.5Gi"; for messages."""
    if name == CPU:
        return f"{amount}m" if amount % 1000 else str(amount // 1000)
    if name in {MEMORY, EPHEMERAL_STORAGE} or name.startswith(HUGEPAGES_PREFIX):
        for unit in reversed("KMGTPE"):
            size = int(_SCALES[f"{unit}i"])
            if abs(amount) >= size:
                return f"{amount / size:.1f}".removesuffix(".0") + f"{unit}i"
    return str(amount)


def parse_resources(amounts: object) -> dict[str, int]:
    """Return a resource list of the API (`allocatable`, `requests`) as integers.

    Anything but an object counts as empty.

    Raises:
        QuantityError: an amount is no quantity; the message names the resource.
    """
    parsed = {}
    for name, text in mapping(amounts).items():
        try:
            parsed[name] = parse_quantity(name, text)
        except QuantityError as error:
            raise QuantityError(f"{name}: {error}") from error
    return parsed


def pod_requests(pod_spec: Mapping[str, Any]) -> dict[str, int]:
    """Return what kube-scheduler books on a node for a pod, with 1 of `pods` for the pod itself.

    The sum of the containers and sidecars, or the most that is needed while the init containers
    run one after the other beside the sidecars started before them, whichever is larger;
    pod-level amounts take the place of this for the resources they name; overhead comes on top.
    Limits stand in for requests that are not given, as the API server fills them in.

    Fields of a wrong type count as absent: the template of a TrainingJob has no schema.

    Raises:
        QuantityError: an amount is no quantity.
    """
    total: dict[str, int] = {}
    for container in mappings(pod_spec.get("containers")):
        _add(total, _requests(container.get("resources")))
    sidecars: dict[str, int] = {}
    initial: dict[str, int] = {}
    for container in mappings(pod_spec.get("initContainers")):
        own = _requests(container.get("resources"))
        if container.get("restartPolicy") == "Always":
            _add(total, own)
            _add(sidecars, own)
            needed: Mapping[str, int] = sidecars
        else:
            needed = _add(dict(sidecars), own)
        _raise_to(initial, needed)
    _raise_to(total, initial)
    total.update(_pod_level(pod_spec.get("resources"), total))
    _add(total, parse_resources(pod_spec.get("overhead")))
    total = {name: amount for name, amount in total.items() if amount > 0}
    total[PODS] = 1
    return total


def accelerators(requests: Resources) -> int:
    """Return how many accelerators (or slices of one) these requests ask for."""
    return sum(amount for name, amount in requests.items() if is_accelerator(name))


def is_accelerator(name: str) -> bool:
    """Return whether a resource name stands for accelerators."""
    return name in ACCELERATORS or name.startswith(ACCELERATOR_PREFIXES)


def _requests(resources: object) -> dict[str, int]:
    sections = mapping(resources)
    return parse_resources(sections.get("limits")) | parse_resources(sections.get("requests"))


def _pod_level(resources: object, of_containers: Resources) -> dict[str, int]:
    """Pod-level requests; a pod-level limit stands in where no container asks for anything."""
    sections = mapping(resources)
    limits = parse_resources(sections.get("limits"))
    chosen = {name: amount for name, amount in limits.items() if name not in of_containers}
    chosen.update(parse_resources(sections.get("requests")))
    return {name: amount for name, amount in chosen.items() if _is_pod_level(name)}


def _is_pod_level(name: str) -> bool:
    return name in {CPU, MEMORY} or name.startswith(HUGEPAGES_PREFIX)


def _add(total: dict[str, int], more: Resources) -> dict[str, int]:
    for name, amount in more.items():
        total[name] = total.get(name, 0) + amount
    return total


def _raise_to(total: dict[str, int], floor: Resources) -> None:
    for name, amount in floor.items():
        total[name] = max(total.get(name, 0), amount)


def mapping(value: object) -> Mapping[str, Any]:
    """Return an object of a template as it is; anything else is as good as absent."""
    return value if isinstance(value, Mapping) else {}


def mappings(value: object) -> list[Mapping[str, Any]]:
    """Return the objects in a list of a template; anything else is as good as absent."""
    items = value if isinstance(value, list | tuple) else ()
    return [item for item in items if isinstance(item, Mapping)]
