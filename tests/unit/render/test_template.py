"""A template that cannot work is refused before anything starts, with field, cause and remedy."""

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from goodput_operator.api.spec import TrainingJobSpec
from goodput_operator.render import (
    JobIdentity,
    RenderSettings,
    accelerators_per_worker,
    processes_per_worker,
    render_pod,
    template_problems,
)

TRAINER: dict[str, Any] = {"name": "trainer", "image": "x", "command": ["python", "train.py"]}
SPEC = "spec.template.spec"


def problems(template: Any, **settings: str) -> tuple[str, ...]:
    # Validation is left out: a status or an old object may hold what today's schema refuses.
    spec = TrainingJobSpec.model_construct(workers=1, template=template)
    return template_problems(spec, **settings)


def pod(**fields: Any) -> dict[str, Any]:
    return {"spec": {"containers": [TRAINER], **fields}}


def trainer(**fields: Any) -> dict[str, Any]:
    return pod(containers=[{**TRAINER, **fields}])


@pytest.mark.parametrize(
    "template",
    [
        pytest.param(pod(), id="minimal"),
        pytest.param(pod(restartPolicy="Never"), id="the one restart policy"),
        pytest.param(pod(hostNetwork=True), id="the host's network"),
        pytest.param(
            pod(containers=[{"name": "main", "command": ["x"]}]), id="one container of any name"
        ),
        pytest.param(pod(containers=[{"name": "sidecar"}, TRAINER]), id="a trainer beside others"),
        pytest.param(
            {
                **pod(),
                "metadata": {"labels": {"app": "x", "app.kubernetes.io/managed-by": "Helm"}},
            },
            id="labels that Helm brings",
        ),
        pytest.param(
            pod(volumes=None, initContainers=None, affinity=None, tolerations=None),
            id="null is absent",
        ),
        pytest.param(
            trainer(volumeMounts=[{"name": "x", "mountPath": "/goodput-data"}]),
            id="a mount that only begins like ours",
        ),
    ],
)
def test_a_usual_template_is_accepted(template: Any) -> None:
    assert problems(template) == ()


@pytest.mark.parametrize(
    ("template", "problem"),
    [
        ({}, f"{SPEC}.containers: there is none; add the container that trains"),
        (
            pod(runtimeClassName="%s"),
            (
                f"{SPEC}.runtimeClassName: '%s' is the name of nothing; it consists of lower-case "
                "letters, digits, '-' and '.'"
            ),
        ),
        (
            pod(containers=[{"name": "a"}, {"name": "b"}]),
            (
                f"{SPEC}.containers: there are 2 and none is called trainer; "
                "give this name to the one that trains"
            ),
        ),
        (
            trainer(command=None, args=["train.py"]),
            (
                f"{SPEC}.containers[0].command: missing, and the image's entrypoint cannot be seen "
                "from here; write the training command out"
            ),
        ),
        (
            pod(restartPolicy="OnFailure"),
            (
                f"{SPEC}.restartPolicy: must be Never, because the operator restarts the gang as a "
                "whole; remove it"
            ),
        ),
        (
            pod(nodeName="a"),
            (
                f"{SPEC}.nodeName: would send every worker to one node past the scheduler; "
                "use nodeSelector or affinity"
            ),
        ),
        (
            {**pod(), "metadata": {"labels": {"goodput.training/slot": "1"}}},
            (
                "spec.template.metadata.labels.goodput.training/slot: names that begin with "
                "goodput.training/ are the operator's; remove it"
            ),
        ),
        (
            {**pod(), "metadata": {"annotations": {"goodput.training/x": "1"}}},
            (
                "spec.template.metadata.annotations.goodput.training/x: names that begin with "
                "goodput.training/ are the operator's; remove it"
            ),
        ),
        (
            trainer(env=[{"name": "A"}, {"name": "GOODPUT_SLOT", "value": "1"}]),
            (
                f"{SPEC}.containers[0].env[1]: GOODPUT_SLOT: names that begin with GOODPUT_ "
                "are the operator's; rename it"
            ),
        ),
        (
            trainer(volumeMounts=[{"name": "x", "mountPath": "/goodput//run/"}]),
            (
                f"{SPEC}.containers[0].volumeMounts[0].mountPath: /goodput is the operator's; "
                "mount it elsewhere"
            ),
        ),
        (
            trainer(volumeMounts=[{"name": "x", "mountPath": "/var/run/goodput"}]),
            (
                f"{SPEC}.containers[0].volumeMounts[0].mountPath: /var/run/goodput is the "
                "operator's; mount it elsewhere"
            ),
        ),
        (
            pod(volumes=[{"name": "goodput-agent"}]),
            f"{SPEC}.volumes[0].name: goodput-agent is the operator's; rename it",
        ),
        (
            pod(initContainers=[{"name": "goodput-agent"}]),
            f"{SPEC}.initContainers[0].name: goodput-agent is the operator's; rename it",
        ),
        (
            pod(initContainers=[{"name": "trainer"}]),
            (
                f"{SPEC}.containers[0].name: trainer is also the name of {SPEC}.initContainers[0]; "
                "rename one"
            ),
        ),
        (
            pod(volumes=[{"name": "a"}, {"name": "a"}]),
            f"{SPEC}.volumes[1].name: a is also the name of {SPEC}.volumes[0]; rename one",
        ),
        (pod(containers="x"), f"{SPEC}.containers: of the wrong type; it must be a list"),
        (pod(containers=["x"]), f"{SPEC}.containers[0]: of the wrong type; it must be an object"),
        (pod(containers=[{}]), f"{SPEC}.containers[0].name: a container needs a name; give it one"),
        (
            trainer(command="python train.py"),
            f"{SPEC}.containers[0].command: of the wrong type; it must be a list of strings",
        ),
        (
            trainer(args=[1]),
            (
                f"{SPEC}.containers[0].args[0]: of the wrong type; it must be a string; "
                "put it in quotes"
            ),
        ),
        (
            trainer(resources={"limits": {"memory": "64 GB"}}),
            (
                f"{SPEC}.containers[0].resources.limits.memory: '64 GB' is not a quantity; "
                'write it like "8", "500m" or "64Gi"'
            ),
        ),
        (
            {**pod(), "metadata": {"labels": {"a": 1}}},
            (
                "spec.template.metadata.labels.a: of the wrong type; it must be a string; "
                "put it in quotes"
            ),
        ),
        (
            pod(terminationGracePeriodSeconds="30"),
            (
                f"{SPEC}.terminationGracePeriodSeconds: of the wrong type; "
                "it must be a whole number of seconds"
            ),
        ),
        (
            pod(affinity={"nodeAffinity": []}),
            f"{SPEC}.affinity.nodeAffinity: of the wrong type; it must be an object",
        ),
    ],
)
def test_a_template_that_cannot_work_is_refused(template: Any, problem: str) -> None:
    assert problems(template) == (problem,)


def test_the_operators_own_service_account_is_refused_where_it_lives() -> None:
    borrowed = pod(serviceAccountName="goodput-operator")
    assert problems(borrowed) == ()
    assert problems(borrowed, operator_service_account="goodput-operator") == (
        f"{SPEC}.serviceAccountName: goodput-operator is the operator's own; use one of the job's",
    )
    assert problems(pod(serviceAccount="op"), operator_service_account="op")
    assert problems(pod(), operator_service_account="goodput-operator") == ()


def test_however_much_is_wrong_the_answer_stays_readable() -> None:
    assert len(problems(pod(volumes=list(range(1000))))) == 20


JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.sampled_from(["Never", "trainer", "1", "/goodput", "GOODPUT_X", "goodput.training/x"]),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["name", "command", "x", "spec"]), inner, max_size=3)
    ),
    max_leaves=8,
)
REQUIRED = "requiredDuringSchedulingIgnoredDuringExecution"
USUAL: dict[str, Any] = {
    "metadata": {"labels": {"a": "b"}, "annotations": {"a": "b"}, "finalizers": ["a/b"]},
    "spec": {
        "affinity": {
            "nodeAffinity": {
                REQUIRED: {
                    "nodeSelectorTerms": [
                        {"matchExpressions": [{"key": "a"}], "matchFields": [{"key": "b"}]}
                    ]
                }
            }
        },
        "containers": [
            {
                "name": "trainer",
                "command": ["python"],
                "args": ["train.py"],
                "env": [{"name": "A", "value": "B"}],
                "volumeMounts": [{"name": "data", "mountPath": "/data"}],
                "resources": {"requests": {"cpu": "1"}, "limits": {"nvidia.com/gpu": 8}},
            },
            {"name": "sidecar"},
        ],
        "initContainers": [{"name": "fetch", "env": [{"name": "A"}]}],
        "volumes": [{"name": "data", "emptyDir": {}}],
        "tolerations": [{"operator": "Exists"}],
        "imagePullSecrets": [{"name": "a"}],
        "resources": {"requests": {"cpu": "8"}},
        "overhead": {"cpu": "250m"},
        "restartPolicy": "Never",
        "serviceAccountName": "a",
        "terminationGracePeriodSeconds": 30,
    },
}


def places(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Return the path of everything inside a JSON value."""
    inside = value.items() if isinstance(value, dict) else enumerate(value)
    found = []
    for key, item in inside:
        found.append((*path, key))
        if isinstance(item, dict | list):
            found += places(item, (*path, key))
    return found


def replaced(value: Any, path: tuple[Any, ...], new: Any) -> Any:
    """Return a copy with something else at `path`."""
    if not path:
        return new
    changed = value.copy()
    changed[path[0]] = replaced(value[path[0]], path[1:], new)
    return changed


def answer(template: dict[str, Any]) -> bool:
    """Ask all that can be asked of a template; return whether it was accepted."""
    spec = TrainingJobSpec.model_construct(workers=1, template=template)
    accelerators_per_worker(spec)
    processes_per_worker(spec)
    if template_problems(spec):
        return False
    chart = RenderSettings("image", "https://operator", "PEM", pull_secrets=("a",))
    rendered = render_pod(JobIdentity("n", "job", "uid"), spec, 0, 0, "node", chart)
    return rendered["spec"]["restartPolicy"] == "Never"


@given(st.dictionaries(st.sampled_from(["metadata", "spec", "x"]), JSON))
def test_a_template_of_any_shape_gets_an_answer(template: dict[str, Any]) -> None:
    answer(template)


@given(st.sampled_from(places(USUAL)), JSON)
@settings(max_examples=1000)
def test_a_usual_template_with_anything_at_any_place_gets_an_answer_or_a_pod(
    place: tuple[Any, ...], anything: Any
) -> None:
    answer(replaced(USUAL, place, anything))


def test_a_usual_template_gets_a_pod() -> None:
    assert answer(USUAL)


@pytest.mark.parametrize(
    ("workers", "gpus", "word"),
    [
        pytest.param(1, 9_223_372_036_854_775_807, "asks for 9223372036854775807", id="one worker"),
        pytest.param(10_000, 1_024, "lower spec.workers", id="the whole gang"),
    ],
)
def test_more_accelerators_than_can_be_counted_are_refused(
    workers: int, gpus: int, word: str
) -> None:
    template = trainer(resources={"limits": {"nvidia.com/gpu": gpus}})
    spec = TrainingJobSpec(workers=workers, template=template)
    [problem] = template_problems(spec)
    assert problem.startswith(f"{SPEC}.containers")
    assert word in problem
