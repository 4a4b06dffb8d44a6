"""One certificate authority and the certificates and kubeconfigs of all components."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterable, Sequence
from pathlib import Path

from .run import run

_DAYS = "3650"
_SERVER_NAMES = (
    "localhost",
    "kubernetes",
    "kubernetes.default",
    "kubernetes.default.svc",
    "kubernetes.default.svc.cluster.local",
)


class Pki:
    """The certificates in one directory, `<name>.crt` and `<name>.key` each; CA is `ca`."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory

    def path(self, name: str) -> str:
        """Return the path of a file in the directory, for a command line."""
        return str(self.directory / name)

    def create(self, addresses: Iterable[str]) -> None:
        """Make the authority and the control plane's certificates.

        `addresses` are the IP addresses of the API server besides the loopback one.
        """
        self.directory.mkdir(parents=True, mode=0o700)
        self._key("ca")
        self._openssl(
            "req",
            "-x509",
            "-new",
            key=self.path("ca.key"),
            out=self.path("ca.crt"),
            days=_DAYS,
            subj="/CN=goodput-local",
            addext="keyUsage=critical,keyCertSign,cRLSign,digitalSignature",
        )
        alternatives = [f"DNS:{name}" for name in _SERVER_NAMES]
        alternatives += [f"IP:{address}" for address in ("127.0.0.1", *addresses)]
        self.issue("apiserver", "/CN=kube-apiserver", alternatives)
        self.issue("kubelet-client", "/O=system:masters/CN=apiserver-kubelet-client")
        self.issue("front-proxy", "/CN=front-proxy-client")
        self.issue("admin", "/O=system:masters/CN=admin")
        for component in ("kube-controller-manager", "kube-scheduler", "kube-proxy"):
            self.issue(component, f"/CN=system:{component}")
        self._key("sa")
        self._openssl("pkey", "-pubout", in_=self.path("sa.key"), out=self.path("sa.pub"))

    def issue(self, name: str, subject: str, alternatives: Sequence[str] = ()) -> None:
        """Make a certificate for server and client use."""
        self._key(name)
        request = self.path(f"{name}.csr")
        self._openssl("req", "-new", key=self.path(f"{name}.key"), subj=subject, out=request)
        extensions = ["keyUsage=critical,digitalSignature"]
        extensions += ["extendedKeyUsage=serverAuth,clientAuth"]
        if alternatives:
            extensions += ["subjectAltName=" + ",".join(alternatives)]
        extension_file = self.directory / f"{name}.ext"
        extension_file.write_text("\n".join(extensions) + "\n")
        self._openssl(
            "x509",
            "-req",
            in_=request,
            out=self.path(f"{name}.crt"),
            CA=self.path("ca.crt"),
            CAkey=self.path("ca.key"),
            days=_DAYS,
            set_serial=str(int.from_bytes(name.encode()[:18], "big")),
            extfile=str(extension_file),
        )

    def kubeconfig(self, name: str, server: str, target: Path) -> Path:
        """Write a kubeconfig with the certificate `name` inside, and return its path."""
        config = {
            "apiVersion": "v1",
            "kind": "Config",
            "current-context": "goodput",
            "contexts": [{"name": "goodput", "context": {"cluster": "goodput", "user": name}}],
            "clusters": [
                {
                    "name": "goodput",
                    "cluster": {
                        "server": server,
                        "certificate-authority-data": self._inline("ca.crt"),
                    },
                }
            ],
            "users": [
                {
                    "name": name,
                    "user": {
                        "client-certificate-data": self._inline(f"{name}.crt"),
                        "client-key-data": self._inline(f"{name}.key"),
                    },
                }
            ],
        }
        target.touch(mode=0o600)
        target.write_text(json.dumps(config, indent=1) + "\n")
        return target

    def _key(self, name: str) -> None:
        key = self.path(f"{name}.key")
        self._openssl("ecparam", "-genkey", "-noout", name="prime256v1", out=key)

    @staticmethod
    def _openssl(*words: str, **options: str) -> None:
        argv = ["openssl", *words]
        for option, value in options.items():
            argv += ["-" + option.rstrip("_"), value]
        run(argv, timeout_seconds=30)

    def _inline(self, name: str) -> str:
        return base64.b64encode((self.directory / name).read_bytes()).decode()
