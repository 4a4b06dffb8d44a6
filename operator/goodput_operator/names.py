"""Every label, annotation, object name and reason that other programs can see, in one place."""

GROUP = "goodput.training"
VERSION = "v1alpha1"
API_VERSION = f"{GROUP}/{VERSION}"
KIND = "TrainingJob"
PLURAL = "trainingjobs"

MANAGED_BY = f"{GROUP}/operator"
"""The value of `spec.managedBy` for the jobs that are ours."""

LABEL_JOB = f"{GROUP}/job"
LABEL_SLOT = f"{GROUP}/slot"
LABEL_INCARNATION = f"{GROUP}/incarnation"
LABEL_MANAGED_BY = "app.kubernetes.io/managed-by"
OPERATOR_NAME = "goodput-operator"

ANNOTATION_CA = f"{GROUP}/operator-ca"
"""The operator's CA certificate (PEM), which a downward-API volume hands to the agent."""

RESERVED_PREFIX = f"{GROUP}/"
TRAINER_CONTAINER = "trainer"
AGENT_CONTAINER = "goodput-agent"
AGENT_VOLUME = "goodput-agent"
CREDENTIALS_VOLUME = "goodput-credentials"
RESERVED_ENV_PREFIX = "GOODPUT_"

LABEL_RACK = "topology.kubernetes.io/rack"
"""Of a node: which of them fail together, and are near each other."""

SPOT_LABELS = (
    ("cloud.google.com/gke-preemptible", "true"),
    ("cloud.google.com/gke-spot", "true"),
    ("eks.amazonaws.com/capacityType", "SPOT"),
    ("karpenter.sh/capacity-type", "spot"),
    ("kubernetes.azure.com/scalesetpriority", "spot"),
)
"""Of a node: its cloud may take it away at any time."""

TAINT_NOT_READY = "node.kubernetes.io/not-ready"
TAINT_UNREACHABLE = "node.kubernetes.io/unreachable"
TAINT_OUT_OF_SERVICE = "node.kubernetes.io/out-of-service"
TAINT_UNSCHEDULABLE = "node.kubernetes.io/unschedulable"


MAX_INCARNATION = 99_999
"""A slot that has had more pods begins again: the name has room for no more digits."""


def pod_name(job: str, slot: int, incarnation: int) -> str:
    """Return the one name that this slot's incarnation can have."""
    return f"{job}-{slot}-{incarnation}"


def selector(job: str) -> str:
    """Return the label selector of a job's pods, as in `status.selector`."""
    return f"{LABEL_JOB}={job}"
