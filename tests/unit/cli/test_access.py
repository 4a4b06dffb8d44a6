"""How the cluster is read, and what is said when it may not be."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from goodput_operator.cli.access import (
    Cluster,
    Kubectl,
    PodAccount,
    find_door,
    kubectl_error,
)
from goodput_operator.errors import (
    ApiError,
    ForbiddenError,
    GoodputError,
    NotFoundError,
    UnavailableError,
)

FORBIDDEN = (
    'Error from server (Forbidden): trainingjobs.goodput.training is forbidden: User "ada" '
    'cannot list resource "trainingjobs" in API group "goodput.training" in the namespace "lab"\n'
)


@pytest.mark.parametrize(
    ("text", "kind", "words"),
    [
        (FORBIDDEN, ForbiddenError, 'User "ada" cannot list'),
        (
            'Error from server (NotFound): trainingjobs.goodput.training "x" not found\n',
            NotFoundError,
            '"x" not found',
        ),
        (
            "error: You must be logged in to the server (Unauthorized)\n",
            ForbiddenError,
            "the API server does not know you",
        ),
        (
            "Error from server (ServiceUnavailable): the server is busy",
            UnavailableError,
            "the server is busy",
        ),
        (
            "E0101 memcache.go] a warning\nThe connection to the server a:1 was refused\n",
            UnavailableError,
            "The connection to the server a:1 was refused",
        ),
        ('error: context "x" does not exist\n', UnavailableError, 'context "x" does not exist'),
        ("error: EOF\n", ForbiddenError, "no credentials for this cluster: log in first"),
        ("", UnavailableError, "kubectl failed"),
    ],
)
def test_kubectls_words_are_kept_and_its_reason_is_understood(
    text: str, kind: type[ApiError], words: str
) -> None:
    error = kubectl_error(text)
    assert type(error) is kind
    assert words in str(error)
    assert not str(error).startswith("error:")


def program(directory: Path, name: str, script: str) -> Path:
    path = directory / name
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)
    return path


def test_where_there_is_kubectl_it_is_asked_with_the_users_flags(tmp_path: Path) -> None:
    path = program(tmp_path, "kubectl", """echo "{\\"asked\\": \\"$*\\"}" """)
    door = find_door({"PATH": str(tmp_path)}, "a file", "prod")
    assert door == Kubectl(str(path), ("--kubeconfig=a file", "--context=prod"))
    assert door.get("/x?a=b&c") == {
        "asked": "get --raw /x?a=b&c --kubeconfig=a file --context=prod"
    }


@pytest.mark.parametrize(
    ("script", "words"),
    [
        ("echo '<html>'", "no JSON: is a proxy before it"),
        ("echo 1", "no object"),
        ("echo 'error: nope' >&2; exit 1", "nope"),
        ("exit 7", "kubectl failed"),
    ],
)
def test_a_kubectl_that_does_not_do_is_an_error_in_words(
    tmp_path: Path, script: str, words: str
) -> None:
    path = program(tmp_path, "kubectl", script)
    with pytest.raises(UnavailableError, match=words):
        Kubectl(str(path)).get("/x")


def test_a_kubectl_that_cannot_be_run_is_an_error_in_words(tmp_path: Path) -> None:
    with pytest.raises(UnavailableError, match="cannot be run"):
        Kubectl(str(tmp_path / "none")).get("/x")


@pytest.mark.parametrize(
    ("script", "namespace"),
    [("echo lab", "lab"), ("echo", "default"), ("exit 1", "default")],
)
def test_the_namespace_is_that_of_the_context(tmp_path: Path, script: str, namespace: str) -> None:
    assert Kubectl(str(program(tmp_path, "kubectl", script))).namespace() == namespace


def test_a_context_that_does_not_exist_is_not_passed_over(tmp_path: Path) -> None:
    path = program(tmp_path, "kubectl", """echo 'error: context "x" does not exist' >&2; exit 1""")
    with pytest.raises(UnavailableError, match='context "x" does not exist'):
        Kubectl(str(path), ("--context=x",)).namespace()


def test_without_kubectl_a_pod_speaks_for_itself(tmp_path: Path) -> None:
    environment = {"PATH": str(tmp_path), "KUBERNETES_SERVICE_HOST": "10.0.0.1"}
    assert find_door(environment) == PodAccount("https://10.0.0.1:443")
    six = {**environment, "KUBERNETES_SERVICE_HOST": "fd00::1", "KUBERNETES_SERVICE_PORT": "6443"}
    assert find_door(six) == PodAccount("https://[fd00::1]:6443")


@pytest.mark.parametrize("flags", [(None, None), ("file", None), (None, "prod")])
def test_with_neither_it_says_what_is_missing(
    tmp_path: Path, flags: tuple[str | None, str | None]
) -> None:
    pod = {"KUBERNETES_SERVICE_HOST": "10.0.0.1"} if any(flags) else {}
    with pytest.raises(UnavailableError, match="no kubectl in PATH"):
        find_door({"PATH": str(tmp_path), **pod}, *flags)


def test_a_pod_without_its_account_is_an_error_in_words(tmp_path: Path) -> None:
    door = PodAccount("https://127.0.0.1:1", tmp_path)
    with pytest.raises(UnavailableError, match=r"the API server at https://127.0.0.1:1"):
        door.get("/x")
    assert door.namespace() == "default"


class Answers:
    """A door behind which the API server answers so, by what the path begins with."""

    def __init__(self, answers: Mapping[str, Any]) -> None:
        self.answers = answers
        self.asked: list[str] = []

    def namespace(self) -> str:
        return "lab"

    def get(self, path: str) -> dict[str, Any]:
        self.asked.append(path)
        found = next(answer for start, answer in self.answers.items() if path.startswith(start))
        answer = found.pop(0) if isinstance(found, list) else found
        if isinstance(answer, Exception):
            raise answer
        return dict(answer)


JOBS = "/apis/goodput.training/v1alpha1"
ALL: dict[str, Any] = {
    f"{JOBS}/namespaces/lab/trainingjobs/gpt": {"metadata": {"name": "gpt"}},
    "/api/v1/namespaces/lab/pods": {"items": [{"kind": "Pod"}]},
    "/api/v1/namespaces/lab/events": {"items": [{"kind": "Event"}]},
}
NO = ForbiddenError("User ada cannot", code=403)


def test_a_job_comes_with_its_pods_and_events_and_nobody_elses() -> None:
    door = Answers(ALL)
    job, pods, events, notes = Cluster(door, None).about("gpt")
    assert (job["metadata"]["name"], pods, events, notes) == (
        "gpt",
        [{"kind": "Pod"}],
        [{"kind": "Event"}],
        [],
    )
    assert any("labelSelector=goodput.training%2Fjob%3Dgpt" in one for one in door.asked)
    assert any("involvedObject.name%3Dgpt" in one for one in door.asked)


@pytest.mark.parametrize("what", ["pods", "events"])
def test_what_may_not_be_seen_is_left_out_and_said(what: str) -> None:
    door = Answers({**ALL, f"/api/v1/namespaces/lab/{what}": NO})
    *_, notes = Cluster(door, None).about("gpt")
    assert len(notes) == 1
    assert f"the right to list {what} in namespace lab is missing" in notes[0]


def test_events_that_cannot_be_read_do_not_hide_the_job() -> None:
    door = Answers({**ALL, "/api/v1/namespaces/lab/events": UnavailableError("busy")})
    *_, notes = Cluster(door, None).about("gpt")
    assert notes == ["events could not be read: busy"]


def test_a_right_that_is_missing_is_named_with_who_gives_it() -> None:
    cluster = Cluster(Answers({JOBS: NO}), None)
    with pytest.raises(
        ForbiddenError,
        match=r"the right to get trainingjobs.goodput.training in namespace lab is missing; the "
        r"chart gives it .* role view. The API server says: User ada cannot",
    ):
        cluster.job("gpt")
    with pytest.raises(ForbiddenError, match=r"list .* in all namespaces .*; -n NAMESPACE needs"):
        cluster.jobs(everywhere=True)


def test_who_is_not_known_at_all_is_told_that() -> None:
    unknown = ForbiddenError("the API server does not know you: Unauthorized", code=401)
    with pytest.raises(ForbiddenError, match=r"^the API server does not know you"):
        Cluster(Answers({JOBS: unknown}), None).job("gpt")


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ('trainingjobs "gpt" not found', "there is no TrainingJob gpt in namespace art"),
        ("the server could not find the requested resource", "install the chart"),
        ("404 page not found", "install the chart"),
    ],
)
def test_what_is_not_there_is_a_job_or_the_whole_chart(words: str, told: str) -> None:
    with pytest.raises(NotFoundError, match=told):
        Cluster(Answers({JOBS: NotFoundError(words)}), "art").job("gpt")


def test_where_the_chart_is_not_installed_there_are_no_jobs() -> None:
    with pytest.raises(GoodputError, match="install the chart"):
        Cluster(Answers({JOBS: NotFoundError("404")}), None).jobs(everywhere=False)


def test_a_long_list_is_read_page_by_page() -> None:
    pages = [
        {"items": [{"n": 1}], "metadata": {"continue": "a b"}},
        {"items": [{"n": 2}], "metadata": {}},
    ]
    door = Answers({JOBS: pages})
    assert Cluster(door, "lab").jobs(everywhere=False) == [{"n": 1}, {"n": 2}]
    assert door.asked[1].endswith("?limit=250&continue=a+b")
