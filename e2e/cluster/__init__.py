"""A real Kubernetes on this machine, with nodes that can be broken, for tests and for trying.

`Cluster` is what tests use, `unavailable_reason` what they skip by. The modules `images` and
`binaries` make what a cluster runs; `python -m e2e.cluster` is the same for a shell.
"""

from .cluster import Cluster
from .errors import ClusterError, WaitTimeoutError
from .preflight import unavailable_reason

__all__ = ["Cluster", "ClusterError", "WaitTimeoutError", "unavailable_reason"]
