"""`make bundle`: write into `dist/` what a release hands out."""

from __future__ import annotations

import sys

from e2e.cluster.binaries import KUBERNETES_VERSION, ensure
from e2e.cluster.errors import ClusterError
from e2e.cluster.paths import REPOSITORY
from e2e.cluster.run import run
from e2e.support import plugin
from e2e.support.installation import CHART, NAMESPACE, RELEASE


def main(plugin_url: str = "") -> int:
    """Write the chart as a package and as one file, and the plugin; return the exit status."""
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
    plugin.hand_out(REPOSITORY, dist, plugin_url)
    for path in sorted(dist.iterdir()):
        print(path.relative_to(REPOSITORY))
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:2]))
