"""Container images without a registry: OCI layouts in tar files, written by a few lines.

The images share one layer with a small Debian and Python. Every layer is reproducible:
sorted, with fixed times, and byte-compiled by the image's own Python in a way that does not
look at times. Torch is not in an image: pods mount `torch_site()` read-only.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import shutil
import sys
import tarfile
import tempfile
from collections.abc import Callable, Container, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from . import packages
from .errors import ClusterError
from .nodes import PAUSE_IMAGE
from .paths import REPOSITORY, cache_dir, locked
from .progress import step
from .run import run

WORKER_IMAGE = "goodput.local/worker:dev"
NO_PYTHON_IMAGE = "goodput.local/nopython:dev"
OPERATOR_IMAGE = "goodput.local/operator:dev"
TORCH_VERSION = "2.13.0"
PYTHON_VERSION = "3.11"
_SUITE = "bookworm"
_OPERATOR_USER = "65532"
_EPOCH = 315532800  # 1980: zip files know no earlier time
_REMOVED = (
    "dev/*",
    "proc/*",
    "sys/*",
    "run/*",
    "tmp/*",
    "boot",
    "home",
    "media",
    "mnt/*",
    "srv",
    "root/.*",
    "var/log",
    "var/cache",
    "var/lib/apt",
    "var/lib/dpkg",
    "etc/apt",
    "etc/hostname",
    "etc/resolv.conf",
    "etc/machine-id",
    "usr/share/doc",
    "usr/share/man",
    "usr/share/locale",
    "usr/share/info",
    "usr/share/i18n",
    "usr/share/zoneinfo",
    "usr/share/perl5",
    "usr/share/lintian",
    "usr/share/bash-completion",
    "usr/lib/x86_64-linux-gnu/gconv",
    "usr/lib/x86_64-linux-gnu/perl-base",
    "usr/lib/apt",
    "usr/bin/apt*",
    "usr/bin/dpkg*",
    "usr/bin/perl*",
    "usr/lib/python3.11/idlelib",
    "usr/lib/python3.11/lib2to3",
)
_KEPT_EMPTY = ("dev", "proc", "sys", "run", "tmp", "mnt", "root", "home", "var/cache", "var/log")
_RECIPE = f"5 {_SUITE} {' '.join(_REMOVED)} {_KEPT_EMPTY} {_OPERATOR_USER}"


@dataclass(frozen=True, slots=True)
class Layer:
    """An uncompressed layer: its file, its digest (also its diff id), its size in bytes."""

    path: Path
    digest: str
    size: int


@dataclass(frozen=True, slots=True)
class Recipe:
    """What makes an image besides its layers."""

    name: str
    entrypoint: Sequence[str] = ()
    command: Sequence[str] = ()
    env: Mapping[str, str] = field(default_factory=dict)
    user: str = ""
    directory: str = "/"


def build_all(repository: Path = REPOSITORY) -> list[Path]:
    """Build the pause, Python-less, worker and operator images; return their tar files."""
    return [*build_static_images(), build_operator_image(repository)]


def build_static_images() -> list[Path]:
    """Build the images that do not depend on the checkout; from the cache at almost no cost."""
    return [build_pause_image(), build_no_python_image(), build_worker_image()]


def build_pause_image() -> Path:
    """Build the image of the pods' sandboxes: a busybox that sleeps."""
    recipe = Recipe(PAUSE_IMAGE, entrypoint=("/bin/sleep", "2147483647"))
    return _write(recipe, [_busybox_layer()], "pause")


def build_no_python_image() -> Path:
    """Build an image with `/bin/sh` and the usual small programs, and without Python."""
    recipe = Recipe(NO_PYTHON_IMAGE, command=("/bin/sh",), env={"PATH": "/bin"})
    return _write(recipe, [_busybox_layer()], "nopython")


def build_worker_image() -> Path:
    """Build the image of training pods: Debian, Python, and `/opt/site` to mount torch at."""
    env = {"PATH": "/usr/local/bin:/usr/bin:/bin", "PYTHONPATH": "/opt/site"}
    recipe = Recipe(WORKER_IMAGE, command=("python3",), env=env)
    return _write(recipe, [base_layer()], "worker")


def build_operator_image(repository: Path = REPOSITORY) -> Path:
    """Build the operator's image from a checkout; about a second when only sources changed.

    The dependencies are those of `requirements.lock`, the sources those of `operator/`, and
    `/app/agent.pyz` comes from `build_zipapp` of `operator/goodput/agent/build.py`. What the
    checkout does not have is left out.

    Raises:
        ClusterError: a dependency could not be installed, or the agent's build failed.
    """
    recipe = Recipe(
        OPERATOR_IMAGE,
        entrypoint=("python3", "-m", "goodput_operator"),
        env={"PATH": "/usr/local/bin:/usr/bin:/bin", "PYTHONPATH": "/app:/deps"},
        user=_OPERATOR_USER,
        directory="/app",
    )
    layers = [base_layer()]
    lock = repository / "requirements.lock"
    if lock.exists():
        layers.append(_dependency_layer(lock))
    with locked(_images() / "operator.lock", "building the operator's image", 120):
        return _write(recipe, [*layers, _application_layer(repository)], "operator")


def base_layer() -> Layer:
    """Return the layer with Debian and Python, made by debootstrap the first time."""
    return _cached_layer("base", _RECIPE, _make_base)


def torch_site() -> Path:
    """Return a directory with torch and numpy for the image's Python, to be mounted read-only.

    The first call installs them, several gigabytes, with pip as its environment configures it.

    Raises:
        ClusterError: pip failed.
    """
    site = _torch_path()
    compiled = site / "compiled"
    if not compiled.exists():
        with locked(cache_dir() / "torch.lock", "installing torch", 3600):
            if not site.exists():
                partial = site.with_suffix(".partial")
                shutil.rmtree(partial, ignore_errors=True)
                with step(f"installing torch {TORCH_VERSION} (some gigabytes)"):
                    _pip(partial, [f"torch=={TORCH_VERSION}", "numpy"])
                partial.rename(site)
            if not compiled.exists():
                with step("byte-compiling torch"):
                    _compile(site, "/opt/site")
                compiled.touch()
    return site


def installed_torch() -> Path | None:
    """Return what `torch_site` would, but None where that would have to be installed first."""
    return torch_site() if _torch_path().exists() else None


def _torch_path() -> Path:
    return cache_dir() / f"site-torch-{TORCH_VERSION}"


def image_of(archive: Path) -> tuple[str, str]:
    """Return the name and the manifest's digest of an image in a tar file."""
    with tarfile.open(archive) as tar:
        member = tar.extractfile("index.json")
        if member is None:
            raise ClusterError(f"{archive} is no OCI layout")
        manifest = json.load(member)["manifests"][0]
    return manifest["annotations"]["io.containerd.image.name"], manifest["digest"]


@contextmanager
def without_blobs(archive: Path, digests: Container[str]) -> Iterator[Path]:
    """Give a copy of an image's tar file that lacks the blobs which a node has already."""
    with tempfile.TemporaryDirectory(dir=_images(), prefix="partial-") as home:
        target = Path(home, archive.name)
        with tarfile.open(archive) as source, tarfile.open(target, "w") as tar:
            for member in source:
                if f"sha256:{Path(member.name).name}" not in digests:
                    tar.addfile(member, source.extractfile(member))
        yield target


def _images() -> Path:
    directory = cache_dir() / "images"
    directory.mkdir(parents=True, exist_ok=True)
    return directory


# Layers ---------------------------------------------------------------------------------------


def _cached_layer(kind: str, key: str, make: Callable[[Path], None]) -> Layer:
    digest = hashlib.sha256(f"{kind} {os.uname().machine} {key}".encode()).hexdigest()[:16]
    home = _images() / f"{kind}-{digest}"
    described = home / "layer.json"
    if not described.exists():
        with locked(_images() / f"{kind}.lock", f"building the {kind} layer", 1800):
            if not described.exists():
                shutil.rmtree(home, ignore_errors=True)
                home.mkdir()
                make(home / "root")
                layer = _pack(home / "root", home / "layer.tar")
                described.write_text(json.dumps({"digest": layer.digest, "size": layer.size}))
                _prune(kind)
    known = json.loads(described.read_text())
    return Layer(home / "layer.tar", known["digest"], known["size"])


def _prune(kind: str) -> None:
    """Remove all layers of a kind but the two newest."""
    for old in sorted(_images().glob(f"{kind}-*"), key=lambda path: path.stat().st_mtime)[:-2]:
        shutil.rmtree(old)


def _make_base(root: Path) -> None:
    packages.install(packages.missing(packages.IMAGE_PROGRAMS))
    argv = ["unshare", "--mount", packages.which("debootstrap") or "debootstrap"]
    argv += ["--variant=minbase", "--include=python3", _SUITE, str(root), *_mirror()]
    with step("making a small Debian with Python (debootstrap)"):
        run(argv, timeout_seconds=1800)
        for pattern in _REMOVED:
            for path in sorted(root.glob(pattern)):
                if path.is_dir() and not path.is_symlink():
                    shutil.rmtree(path)
                else:
                    path.unlink()
        for name in _KEPT_EMPTY:
            (root / name).mkdir(parents=True, exist_ok=True)
        (root / "tmp").chmod(0o1777)
        (root / "opt/site").mkdir(parents=True)
        for file, line in (
            ("passwd", f"operator:x:{_OPERATOR_USER}:{_OPERATOR_USER}::/app:/usr/sbin/nologin"),
            ("group", f"operator:x:{_OPERATOR_USER}:"),
        ):
            with (root / "etc" / file).open("a") as out:
                out.write(line + "\n")
        for directory in ("usr/lib/python3", f"usr/lib/python{PYTHON_VERSION}"):
            _compile(root / directory, f"/{directory}", root)


def _mirror() -> list[str]:
    """Return the mirror of the suite that this system uses; none leaves it to debootstrap."""
    if packages.which("apt-get") is None:
        return []
    form = "$(REPO_URI) $(CODENAME) $(COMPONENT)"
    listed = run(["apt-get", "indextargets", "--format", form], check=False).stdout
    for line in listed.splitlines():
        words = line.split()
        if words[1:] == [_SUITE, "main"]:
            return [words[0]]
    return []


def _busybox_layer() -> Layer:
    return _cached_layer("busybox", "1", _make_busybox)


def _make_busybox(root: Path) -> None:
    packages.install(packages.missing(packages.IMAGE_PROGRAMS))
    binary = packages.which("busybox") or "busybox"
    for name in ("bin", "dev", "etc", "proc", "sys", "tmp", "opt"):
        (root / name).mkdir(parents=True)
    shutil.copy(binary, root / "bin/busybox")
    for applet in run([binary, "--list"]).stdout.split():
        if applet != "busybox":
            (root / "bin" / applet).symlink_to("busybox")


def _dependency_layer(lock: Path) -> Layer:
    def make(root: Path) -> None:
        with step("installing the operator's dependencies"):
            _pip(root / "deps", ["--no-deps", "-r", str(lock)])
            _compile(root / "deps", "/deps")

    return _cached_layer("dependencies", f"2 {PYTHON_VERSION} {lock.read_text()}", make)


def _application_layer(repository: Path) -> Layer:
    with tempfile.TemporaryDirectory(dir=_images(), prefix="partial-") as home:
        root = Path(home, "root")
        (root / "app").mkdir(parents=True)
        sources = repository / "operator"
        if sources.is_dir():
            ignored = shutil.ignore_patterns("__pycache__", "*.pyc", ".*", "tests")
            shutil.copytree(sources, root / "app", ignore=ignored, dirs_exist_ok=True)
        if (sources / "goodput/agent/build.py").exists():
            _build_agent(sources, root / "app/agent.pyz")
        _compile(root / "app", "/app")
        layer = _pack(root, Path(home, "layer.tar"))
        kept = _images() / "application.tar"
        layer.path.replace(kept)
    return Layer(kept, layer.digest, layer.size)


def _build_agent(sources: Path, target: Path) -> None:
    code = "import pathlib, sys; sys.path.insert(0, sys.argv[1])\n"
    code += "from goodput.agent.build import build_zipapp\n"
    code += "build_zipapp(*map(pathlib.Path, sys.argv[1:3]))"
    run([sys.executable, "-B", "-c", code, str(sources), str(target)])
    target.chmod(0o755)


def _pip(target: Path, arguments: Sequence[str]) -> None:
    argv = [sys.executable, "-m", "pip", "install", "--quiet", "--no-compile"]
    argv += ["--target", str(target), "--python-version", PYTHON_VERSION]
    argv += ["--only-binary=:all:", "--root-user-action=ignore", *arguments]
    run(argv, timeout_seconds=3600)


def _compile(directory: Path, seen_as: str, root: Path | None = None) -> None:
    """Byte-compile `directory` with the image's Python, to lie at `seen_as` in the image.

    Raises:
        ClusterError: it did not work. A program that compiles all it imports whenever it starts
            works, too, but that takes as long again as to import torch.
    """
    root = root or base_layer().path.parent / "root"
    # The workers of compileall need semaphores, which live in /dev/shm.
    script = 'mount --bind "$1" "$2/mnt" && mount -t tmpfs none "$2/dev" && mkdir "$2/dev/shm"'
    script += ' && exec chroot "$2" python3 -I -m compileall -qq -f -j 2'
    script += ' --invalidation-mode unchecked-hash -s /mnt -p "$3" /mnt'
    argv = ["unshare", "--mount", "--propagation", "private", "sh", "-c", script, "sh"]
    done = run([*argv, str(directory), str(root), seen_as], check=False, timeout_seconds=1800)
    # 1 without a word: a file that was never meant for this Python did not compile.
    if done.returncode != 0 and done.stderr.strip():
        raise ClusterError(f"byte-compiling {seen_as} failed: {done.stderr.strip()[-1000:]}")
    if any(directory.rglob("*.py")) and not any(directory.rglob("*.pyc")):
        raise ClusterError(f"byte-compiling {seen_as} has left nothing in it")


def _pack(root: Path, target: Path) -> Layer:
    def settle(member: tarfile.TarInfo) -> tarfile.TarInfo:
        member.mtime = _EPOCH
        member.uname = member.gname = ""
        return member

    with tarfile.open(target, "w", format=tarfile.GNU_FORMAT) as tar:
        for path in sorted(root.rglob("*")):
            tar.add(path, str(path.relative_to(root)), recursive=False, filter=settle)
    with target.open("rb") as packed:
        digest = hashlib.file_digest(packed, "sha256").hexdigest()
    return Layer(target, f"sha256:{digest}", target.stat().st_size)


# Images ---------------------------------------------------------------------------------------


def _write(recipe: Recipe, layers: Sequence[Layer], stem: str) -> Path:
    """Write an image as `<stem>.tar` into the cache, unless the same one lies there."""
    manifest, blobs = _manifest(recipe, layers)
    target = _images() / f"{stem}.tar"
    digest = "sha256:" + hashlib.sha256(manifest).hexdigest()
    if target.exists() and image_of(target) == (recipe.name, digest):
        return target
    index = {
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.index.v1+json",
        "manifests": [
            {
                "mediaType": "application/vnd.oci.image.manifest.v1+json",
                "digest": digest,
                "size": len(manifest),
                "annotations": {"io.containerd.image.name": recipe.name},
            }
        ],
    }
    partial = target.with_name(f"{stem}.{os.getpid()}.partial")
    with tarfile.open(partial, "w", format=tarfile.GNU_FORMAT) as tar:
        _add(tar, "index.json", _json(index))
        _add(tar, "oci-layout", b'{"imageLayoutVersion":"1.0.0"}')
        for blob in (*blobs, manifest):
            _add(tar, "blobs/sha256/" + hashlib.sha256(blob).hexdigest(), blob)
        for layer in layers:
            member = tarfile.TarInfo("blobs/sha256/" + layer.digest.removeprefix("sha256:"))
            member.size, member.mtime = layer.size, _EPOCH
            with layer.path.open("rb") as source:
                tar.addfile(member, source)
    partial.replace(target)
    return target


def _manifest(recipe: Recipe, layers: Sequence[Layer]) -> tuple[bytes, list[bytes]]:
    config = _json(
        {
            "architecture": "amd64" if os.uname().machine == "x86_64" else "arm64",
            "os": "linux",
            "config": {
                "Entrypoint": list(recipe.entrypoint),
                "Cmd": list(recipe.command),
                "Env": [f"{key}={value}" for key, value in recipe.env.items()],
                "User": recipe.user,
                "WorkingDir": recipe.directory,
            },
            "rootfs": {"type": "layers", "diff_ids": [layer.digest for layer in layers]},
        }
    )
    manifest = {
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "config": {
            "mediaType": "application/vnd.oci.image.config.v1+json",
            "digest": "sha256:" + hashlib.sha256(config).hexdigest(),
            "size": len(config),
        },
        "layers": [
            {
                "mediaType": "application/vnd.oci.image.layer.v1.tar",
                "digest": layer.digest,
                "size": layer.size,
            }
            for layer in layers
        ],
    }
    return _json(manifest), [config]


def _add(tar: tarfile.TarFile, name: str, content: bytes) -> None:
    member = tarfile.TarInfo(name)
    member.size, member.mtime = len(content), _EPOCH
    tar.addfile(member, io.BytesIO(content))


def _json(value: object) -> bytes:
    return json.dumps(value, sort_keys=True, separators=(",", ":")).encode()
