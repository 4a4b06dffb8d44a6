"""`make bundle`: write into `dist/` what a release hands out."""

from __future__ import annotations

import sys

from e2e.cluster.binaries import KUBERNETES_VERSION, ensure
from e2e.cluster.errors import ClusterError
from e2e.cluster.paths import REPOSITORY
from e2e.cluster.run import run
from e2e.support.installation import CHART, NAMESPACE, RELEASE


def main() -> int:
    """Write the packaged chart, and all its objects as one file; return the exit status."""
    dist = REPOSITORY / "dist"
    dist.mkdir(exist_ok=True)
    try:
        helm = str(ensure(["helm"])["helm"])
        run([helm, "package", str(CHART), "--destination", str(dist)])
        argv = [helm, "template", RELEASE, str(CHART), "--namespace", NAMESPACE]
        argv += ["--kube-version", KUBERNETES_VERSION, "--set", "namespace.create=true"]
        rendered = run(argv).stdout
    except ClusterError as failed:
        print(f"error: {failed}", file=sys.stderr)
        return 1
    (dist / f"{RELEASE}.yaml").write_text(rendered)
    for path in sorted(dist.iterdir()):
        print(path.relative_to(REPOSITORY))
    return 0


if __name__ == "__main__":
    sys.exit(main())
