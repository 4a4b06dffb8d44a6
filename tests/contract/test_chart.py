"""The chart, rendered by a real helm and put before a real API server."""

import copy
import json
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from e2e.cluster.binaries import KUBERNETES_VERSION
from e2e.cluster.cluster import Cluster
from e2e.cluster.errors import ClusterError
from e2e.support import prometheus
from goodput_operator.controller import settings

CHART = Path(__file__).resolve().parents[2] / "charts" / "goodput-operator"
CRD = CHART / "files" / "goodput.training_trainingjobs.yaml"
Object = dict[str, Any]

EVERYTHING = {
    "replicas": 3,
    "image": {"repository": "registry.local/op", "tag": "1", "pullPolicy": "Always"},
    "agentImage": {"repository": "registry.local/agent", "tag": "2", "pullPolicy": "Never"},
    "imagePullSecrets": ["op-pull"],
    "agentPullSecrets": ["agent-pull", "second"],
    "watchNamespaces": ["default", "kube-public"],
    "agentUrl": "https://goodput.example:8443",
    "leaderElection": {"leaseDurationSeconds": 6, "leaseRenewSeconds": 1.5},
    "workers": 4,
    "resyncSeconds": 60,
    "log": {"format": "text", "level": "debug"},
    "metrics": {
        "queueLabel": "",
        "teamLabel": "example.com/team",
        "dashboards": {"create": True, "annotations": {"a": "b"}},
    },
    "serviceAccount": {"name": "other", "annotations": {"a": "b"}},
    "networkPolicy": {"create": True, "metricsFrom": [{"namespaceSelector": {}}]},
    "namespace": {"create": True},
    "podAnnotations": {"a": "b"},
    "podLabels": {"c": "d"},
    "priorityClassName": "system-cluster-critical",
    "nodeSelector": {"kubernetes.io/os": "linux"},
    "tolerations": [{"operator": "Exists"}],
    "affinity": {"nodeAffinity": {}},
}
MONITORED = {
    "metrics": {
        "serviceMonitor": {"create": True, "labels": {"release": "mine"}},
        "podMonitor": {"create": True, "interval": "15s"},
        "prometheusRule": {
            "create": True,
            "target": 0.9,
            "pricePerAcceleratorHour": {"nvidia.com/gpu": 2.5},
            "runbookUrl": "https://docs.example/runbook",
        },
        "dashboards": {"create": True},
    }
}
"""What needs the Prometheus operator's own definitions, which no plain API server has."""
BARE = {
    "replicas": 1,
    "crds": {"install": False},
    "serviceAccount": {"create": False},
    "rbac": {"create": False},
    "admissionPolicy": {"create": False},
    "podDisruptionBudget": {"create": False},
}


def render(cluster: Cluster, namespace: str, values: Object | None = None) -> list[Object]:
    text = cluster.helm(
        *("template", "goodput", str(CHART), "--namespace", namespace),
        *("--kube-version", KUBERNETES_VERSION, "--values", "-"),
        input=json.dumps(values or {}),
    )
    return [document for document in yaml.safe_load_all(text) if document]


def named(objects: list[Object], kind: str, name: str | None = None) -> Object:
    found = [
        one
        for one in objects
        if one["kind"] == kind and (name is None or one["metadata"]["name"] == name)
    ]
    assert len(found) == 1, f"{len(found)} objects are {kind} {name or ''}"
    return found[0]


def started(objects: list[Object]) -> settings.Settings:
    """Read the rendered command line as the operator will, in a pod that is told of itself."""
    pod = named(objects, "Deployment")["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    facts = {
        "metadata.namespace": "x",
        "metadata.name": "p",
        "status.podIP": "1",
        "spec.serviceAccountName": pod["serviceAccountName"],
    }
    fields = {one["name"]: one["valueFrom"]["fieldRef"]["fieldPath"] for one in container["env"]}
    told = {name: facts[field] for name, field in fields.items()}
    return settings.parse(container["args"], told)


def rights(role: Object) -> dict[tuple[str, str], set[str]]:
    """Return the verbs by resource and object name, `*` standing for any name."""
    granted: dict[tuple[str, str], set[str]] = {}
    for rule in role["rules"]:
        for resource in rule["resources"]:
            for name in rule.get("resourceNames", ["*"]):
                granted.setdefault((resource, name), set()).update(rule["verbs"])
    return granted


def test_helm_finds_no_fault(cluster: Cluster) -> None:
    assert "0 chart(s) failed" in cluster.helm("lint", "--strict", str(CHART))


@pytest.mark.parametrize(
    "values",
    [
        pytest.param({}, id="the defaults"),
        pytest.param(EVERYTHING, id="every value set"),
        pytest.param(BARE, id="everything optional off"),
    ],
)
def test_the_api_server_accepts_what_is_rendered(
    cluster: Cluster, namespace: str, values: Object
) -> None:
    listed = {"apiVersion": "v1", "kind": "List", "items": render(cluster, namespace, values)}
    cluster.kubectl(
        *("apply", "--server-side", "--force-conflicts", "--dry-run=server", "-f", "-"),
        input=json.dumps(listed),
    )


@pytest.mark.parametrize(
    "wrong",
    [
        pytest.param({"replica": 2}, id="a misspelt value"),
        pytest.param({"image": {"repository": ""}}, id="no image"),
        pytest.param({"log": {"level": "loud"}}, id="a level that does not exist"),
        pytest.param({"agentUrl": "http://plain"}, id="agents without TLS"),
        pytest.param({"watchNamespaces": ["Not_A_Name"]}, id="no namespace's name"),
        pytest.param({"metrics": {"teamLabel": "a/b/c"}}, id="no label's key"),
        pytest.param({"metrics": {"prometheusRule": {"target": 85}}}, id="a share above one"),
    ],
)
def test_helm_refuses_a_wrong_value(cluster: Cluster, namespace: str, wrong: Object) -> None:
    with pytest.raises(ClusterError, match="values don't meet the specifications"):
        render(cluster, namespace, wrong)


def test_the_operator_understands_its_command_line(cluster: Cluster) -> None:
    plain = started(render(cluster, "goodput-system"))
    assert plain.agent_image == "goodput-operator:0.1.0"
    assert plain.watch_namespaces == ()
    assert plain.service_account == "goodput-operator"
    told = started(render(cluster, "goodput-system", EVERYTHING))
    assert told.agent_image == "registry.local/agent:2"
    assert told.agent_image_pull_policy == "Never"
    assert told.agent_pull_secrets == ("agent-pull", "second")
    assert told.watch_namespaces == ("default", "kube-public")
    assert told.agent_url == "https://goodput.example:8443"
    assert told.service_account == "other"
    assert (told.lease.duration_seconds, told.lease.renew_seconds) == (6, 1.5)
    assert (told.workers, told.queue.resync_seconds) == (4, 60)
    assert (told.log_format, told.log_level) == ("text", "debug")
    assert (told.job_labels.queue, told.job_labels.team) == ("", "example.com/team")
    assert plain.job_labels == settings.parse(["--agent-image=x"], {}).job_labels


def test_the_services_lead_to_the_ports_that_the_operator_opens(cluster: Cluster) -> None:
    objects = render(cluster, "goodput-system")
    operator = started(objects)
    pod = named(objects, "Deployment")["spec"]["template"]
    ports = {port["name"]: port["containerPort"] for port in pod["spec"]["containers"][0]["ports"]}
    assert ports == {"agents": operator.agent_port, "http": operator.http_port}
    for service in (one for one in objects if one["kind"] == "Service"):
        assert service["spec"]["selector"].items() <= pod["metadata"]["labels"].items()
        assert {port["targetPort"] for port in service["spec"]["ports"]} <= ports.keys()
    assert named(objects, "Service", operator.service)


def test_nothing_is_there_for_prometheus_and_grafana_unless_it_is_asked_for(
    cluster: Cluster,
) -> None:
    kinds = {one["kind"] for one in render(cluster, "goodput-system")}
    assert not kinds & {"ServiceMonitor", "PodMonitor", "PrometheusRule", "ConfigMap"}


def test_the_monitors_find_the_port_of_the_metrics_and_keep_the_jobs_labels(
    cluster: Cluster,
) -> None:
    objects = render(cluster, "goodput-system", MONITORED)
    service = named(objects, "Service", "goodput-operator-metrics")
    pod = named(objects, "Deployment")["spec"]["template"]
    by_service, by_pod = named(objects, "ServiceMonitor"), named(objects, "PodMonitor")
    assert by_service["metadata"]["labels"]["release"] == "mine"
    wanted = by_service["spec"]["selector"]["matchLabels"].items()
    assert wanted <= service["metadata"]["labels"].items()
    assert not wanted <= named(objects, "Service", "goodput-operator")["metadata"]["labels"].items()
    assert by_pod["spec"]["selector"]["matchLabels"].items() <= pod["metadata"]["labels"].items()
    (of_service,), (of_pod,) = (
        by_service["spec"]["endpoints"],
        by_pod["spec"]["podMetricsEndpoints"],
    )
    assert of_service["port"] in {port["name"] for port in service["spec"]["ports"]}
    assert of_pod["port"] in {port["name"] for port in pod["spec"]["containers"][0]["ports"]}
    assert (of_service["interval"], of_pod["interval"]) == ("30s", "15s")
    for endpoint in (of_service, of_pod):
        assert endpoint["honorLabels"] is True
        taken = {one["targetLabel"] for one in endpoint["metricRelabelings"]}
        assert taken >= {"instance", "pod"}
        assert {one["regex"] for one in endpoint["metricRelabelings"]} == {prometheus.JOB_SERIES}


def test_the_rules_carry_the_installations_target_prices_and_runbook(
    cluster: Cluster, tmp_path: Path
) -> None:
    reason = prometheus.unavailable_reason()
    if reason is not None:
        pytest.skip(reason)
    rules = named(render(cluster, "goodput-system", MONITORED), "PrometheusRule")["spec"]
    (tmp_path / "rules.yaml").write_text(yaml.safe_dump(rules))
    assert "SUCCESS" in prometheus.promtool("check", "rules", "rules.yaml", cwd=tmp_path)
    settled, *others = rules["groups"]
    assert [(one["record"], one["expr"]) for one in settled["rules"]] == [
        ("goodput:target:ratio", "vector(0.9)"),
        ("goodput:accelerator_hour:price", "vector(2.5)"),
    ]
    alerts = [rule for group in others for rule in group["rules"] if "alert" in rule]
    assert alerts
    for rule in alerts:
        assert rule["annotations"]["runbook_url"].startswith("https://docs.example/runbook#goodput")


def test_each_dashboard_comes_whole_in_a_config_map(cluster: Cluster) -> None:
    objects = render(cluster, "goodput-system", MONITORED)
    found = [one for one in objects if one["kind"] == "ConfigMap"]
    assert all(one["metadata"]["labels"]["grafana_dashboard"] == "1" for one in found)
    shown = {name: json.loads(text) for one in found for name, text in one["data"].items()}
    files = sorted((CHART / "dashboards").glob("*.json"))
    assert shown == {f"goodput-{one.name}": json.loads(one.read_text()) for one in files}
    assert len(shown) == 3


def test_a_dead_leader_is_replaced_within_fifteen_seconds(cluster: Cluster) -> None:
    lease = started(render(cluster, "goodput-system")).lease
    assert lease.duration_seconds + lease.renew_seconds <= 15


JOB_RIGHTS = {
    ("trainingjobs", "*"): {"get", "list", "watch", "delete"},
    ("trainingjobs/status", "*"): {"update"},
    ("pods", "*"): {"get", "list", "watch", "create", "delete"},
    ("events", "*"): {"create"},
}
REVIEW = {("tokenreviews", "*"): {"create"}}


def test_the_operators_rights_are_these_and_no_others(cluster: Cluster) -> None:
    objects = render(cluster, "goodput-system")
    everywhere = named(objects, "ClusterRole", "goodput-operator-goodput-system")
    assert rights(everywhere) == JOB_RIGHTS | REVIEW | {("nodes", "*"): {"get", "list", "watch"}}
    assert rights(named(objects, "Role")) == {
        ("leases", "*"): {"create"},
        ("leases", "goodput-operator"): {"get", "update"},
        ("secrets", "*"): {"create"},
        ("secrets", "goodput-operator-ca"): {"get", "update"},
        ("services", "goodput-operator"): {"get"},
    }


def test_one_teams_operator_can_do_nothing_in_other_namespaces(cluster: Cluster) -> None:
    objects = render(cluster, "team", {"watchNamespaces": ["a", "b"]})
    assert rights(named(objects, "ClusterRole", "goodput-operator-team")) == REVIEW
    roles = [one for one in objects if one["kind"] == "Role" and one["metadata"]["name"] != "x"]
    granted = {one["metadata"]["namespace"]: rights(one) for one in roles}
    assert granted.keys() == {"a", "b", "team"}
    assert granted["a"] == granted["b"] == JOB_RIGHTS


def test_users_roles_cover_training_jobs(cluster: Cluster) -> None:
    objects = render(cluster, "goodput-system")
    view = named(objects, "ClusterRole", "goodput-trainingjobs-view")
    edit = named(objects, "ClusterRole", "goodput-trainingjobs-edit")
    aggregated = "rbac.authorization.k8s.io/aggregate-to-"
    assert view["metadata"]["labels"][f"{aggregated}view"] == "true"
    assert edit["metadata"]["labels"][f"{aggregated}edit"] == "true"
    assert f"{aggregated}view" not in edit["metadata"]["labels"]
    assert not rights(edit).keys() & {("trainingjobs/status", "*")}, "a status is the operator's"


def test_helm_keeps_the_crd_when_it_goes_and_upgrades_it_when_it_stays(cluster: Cluster) -> None:
    crd = named(render(cluster, "goodput-system"), "CustomResourceDefinition")
    assert crd["metadata"]["annotations"] == {"helm.sh/resource-policy": "keep"}
    assert crd["spec"] == yaml.safe_load(CRD.read_text())["spec"]


def test_the_operators_pod_is_allowed_where_pods_are_restricted(
    cluster: Cluster, namespace: str
) -> None:
    label = "pod-security.kubernetes.io/enforce=restricted"
    cluster.kubectl("label", "namespace", namespace, label)
    template = copy.deepcopy(named(render(cluster, namespace), "Deployment")["spec"]["template"])
    del template["spec"]["serviceAccountName"]
    template["spec"]["automountServiceAccountToken"] = False
    pod = {"apiVersion": "v1", "kind": "Pod", **template}
    pod["metadata"] = {"name": "operator"}
    _eventually_accepted(cluster, namespace, pod)


def _eventually_accepted(cluster: Cluster, namespace: str, pod: Object) -> None:
    """A namespace's default service account is made a moment after the namespace."""
    path = f"/api/v1/namespaces/{namespace}/pods?dryRun=All"

    def accepted() -> bool:
        try:
            return bool(cluster.api.call("POST", path, pod))
        except ClusterError as error:
            if "serviceaccount" in str(error):
                return False
            raise

    cluster.wait_until(accepted, "the default service account", 30)


def test_the_notes_end_with_a_job_that_is_accepted(cluster: Cluster, namespace: str) -> None:
    cluster.kubectl("apply", "--server-side", "--force-conflicts", "-f", str(CRD))
    notes = cluster.helm(
        *("install", "goodput", str(CHART), "--namespace", namespace),
        *("--dry-run=server", "--take-ownership"),
    ).partition("NOTES:")[2]
    job = notes.partition("<<JOB\n")[2].partition("\nJOB\n")[0]
    cluster.kubectl("create", "--dry-run=server", "-n", namespace, "-f", "-", input=job)


@pytest.fixture(scope="module")
def guarded(cluster: Cluster) -> Iterator[str]:
    """A namespace that is an operator's own, with the chart's admission policy in force."""
    name = f"contract-{uuid.uuid4().hex[:8]}"
    cluster.kubectl("apply", "--server-side", "--force-conflicts", "-f", str(CRD))
    cluster.kubectl("create", "namespace", name)
    kinds = {"ValidatingAdmissionPolicy", "ValidatingAdmissionPolicyBinding"}
    policies = [one for one in render(cluster, name) if one["kind"] in kinds]
    listed = json.dumps({"apiVersion": "v1", "kind": "List", "items": policies})
    cluster.kubectl("apply", "-f", "-", input=listed)
    theft = _job({"serviceAccountName": "goodput-operator"})
    cluster.wait_until(
        lambda: "operator's own account" in _refusal(cluster, name, theft),
        "the policy to be in force",
        60,
    )
    yield name
    cluster.kubectl("delete", "-f", "-", input=listed)
    cluster.kubectl("delete", "namespace", name, "--wait=false")


def _job(pod: Object, container: Object | None = None) -> Object:
    main = {"name": "main", "image": "a", "command": ["x"], **(container or {})}
    return {
        "apiVersion": "goodput.training/v1alpha1",
        "kind": "TrainingJob",
        "metadata": {"name": "thief"},
        "spec": {"workers": 1, "template": {"spec": {"containers": [main], **pod}}},
    }


def _refusal(cluster: Cluster, namespace: str, job: Object) -> str:
    try:
        cluster.kubectl(
            *("create", "--dry-run=server", "-n", namespace, "-f", "-"), input=json.dumps(job)
        )
    except ClusterError as error:
        return str(error)
    return ""


KEYS = "goodput-operator-ca"


@pytest.mark.parametrize(
    ("job", "words"),
    [
        pytest.param(
            _job({"serviceAccountName": "goodput-operator"}), "operator's own account", id="account"
        ),
        pytest.param(
            _job({"serviceAccount": "goodput-operator"}),
            "operator's own account",
            id="the account by its old name",
        ),
        pytest.param(
            _job({"volumes": [{"name": "v", "secret": {"secretName": KEYS}}]}),
            "operator's keys",
            id="keys as a volume",
        ),
        pytest.param(
            _job(
                {"volumes": [{"name": "v", "projected": {"sources": [{"secret": {"name": KEYS}}]}}]}
            ),
            "operator's keys",
            id="keys as a part of a volume",
        ),
        pytest.param(
            _job(
                {},
                {"env": [{"name": "K", "valueFrom": {"secretKeyRef": {"name": KEYS, "key": "k"}}}]},
            ),
            "operator's keys",
            id="a key as a variable",
        ),
        pytest.param(
            _job({"initContainers": [{"name": "i", "envFrom": [{"secretRef": {"name": KEYS}}]}]}),
            "operator's keys",
            id="all keys as variables of an init container",
        ),
    ],
)
def test_a_job_beside_the_operator_cannot_get_hold_of_its_rights(
    cluster: Cluster, guarded: str, job: Object, words: str
) -> None:
    assert words in _refusal(cluster, guarded, job)


@pytest.mark.parametrize(
    "job",
    [
        pytest.param(_job({}), id="a plain job"),
        pytest.param(
            _job(
                {"volumes": [{"name": "v", "secret": {"secretName": "mine"}}]},
                {"envFrom": [{"secretRef": {"name": "mine"}}, {"configMapRef": {"name": "c"}}]},
            ),
            id="secrets of its own",
        ),
    ],
)
def test_an_honest_job_may_run_beside_the_operator(
    cluster: Cluster, guarded: str, job: Object
) -> None:
    assert _refusal(cluster, guarded, job) == ""


def test_elsewhere_an_account_of_the_same_name_is_just_an_account(
    cluster: Cluster, guarded: str, namespace: str
) -> None:
    del guarded
    assert _refusal(cluster, namespace, _job({"serviceAccountName": "goodput-operator"})) == ""
