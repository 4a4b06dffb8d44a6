"""Files that are still there after a crash: written, fsynced, renamed, checked, deleted.

Every function here may raise OSError.
"""

import contextlib
import errno
import os
import shutil
import stat
from typing import Iterator, List, Tuple

from goodput.checkpoint import layout
from goodput.checkpoint.layout import File, Place


def write(path: str, content: bytes) -> None:
    """Write a whole file, or leave the old one: by rename, on disk when this returns."""
    unfinished = path + ".tmp"
    with open(unfinished, "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    os.replace(unfinished, path)
    sync_directory(os.path.dirname(path))


def move_in(staging: str, directory: str) -> Tuple[File, ...]:
    """Move all files below `staging` into `directory`, on disk when this returns."""
    moved = []
    touched = {directory}
    for path in list(_files_below(staging)):
        name = os.path.relpath(path, staging)
        if not stat.S_ISREG(os.lstat(path).st_mode):
            raise OSError(errno.EINVAL, "it is a link or a device, not a file", path)
        target = os.path.join(directory, name)
        entry = File(name.replace(os.sep, "/"), os.path.getsize(path), layout.checksum(path))
        _sync(path)
        touched.update(_make_parents(name, directory))
        os.rename(path, target)
        moved.append(entry)
    for parent in sorted(touched):
        sync_directory(parent)
    shutil.rmtree(staging)
    return tuple(moved)


def problem_with(directory: str, place: Place, file: File, deep: bool) -> str:
    """Say what is wrong with a file of a checkpoint; `deep` reads it through."""
    path = os.path.join(directory, place.name, *file.name.split("/"))
    size = os.stat(path).st_size
    if size != file.bytes:
        return "{} bytes instead of {}".format(size, file.bytes)
    if deep and layout.checksum(path) != file.checksum:
        return "the checksum does not match"
    return ""


def is_good(directory: str, place: Place) -> bool:
    """Whether a save is published and whole as far as names and sizes tell.

    What cannot be read for another reason than that it is not there is neither: OSError.
    """
    try:
        manifest = layout.read_manifest(directory, place)
        return not any(problem_with(directory, place, file, deep=False) for file in manifest.files)
    except (FileNotFoundError, NotADirectoryError, layout.CorruptError):
        return False


def delete(directory: str, place: Place) -> None:
    """Delete a save, its manifest first: at no moment is it published and incomplete."""
    path = os.path.join(directory, place.name)
    try:
        os.unlink(os.path.join(path, layout.MANIFEST))
    except FileNotFoundError:
        pass
    else:
        sync_directory(path)
    shutil.rmtree(path)


def make_directories(path: str) -> None:
    """Make a directory and what is missing above it, on disk when this returns."""
    parent = os.path.dirname(os.path.abspath(path))
    try:
        os.mkdir(path)
    except FileExistsError:  # another rank was faster, or was killed before it could sync
        with contextlib.suppress(PermissionError):
            sync_directory(parent)
        return
    except FileNotFoundError:
        make_directories(parent)
        with contextlib.suppress(FileExistsError):
            os.mkdir(path)
    sync_directory(parent)


def sync_directory(path: str) -> None:
    """Put the names in a directory on disk, where its file system can do that at all."""
    try:
        _sync(path)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP, errno.EBADF):
            raise


def _sync(path: str) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _files_below(top: str) -> Iterator[str]:
    for parent, directories, names in os.walk(top, onerror=_raise):
        directories.sort()
        links = [name for name in directories if os.path.islink(os.path.join(parent, name))]
        for name in sorted(names + links):
            yield os.path.join(parent, name)


def _make_parents(name: str, directory: str) -> List[str]:
    made = []
    for part in name.split(os.sep)[:-1]:
        directory = os.path.join(directory, part)
        with contextlib.suppress(FileExistsError):
            os.mkdir(directory)
        made.append(directory)
    return made


def _raise(error: OSError) -> None:
    raise error
