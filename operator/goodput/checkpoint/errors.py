"""The errors that the checkpoint functions raise."""

import errno
import os
from typing import Optional

_REMEDIES = {
    errno.ENOSPC: "free space on the volume, enlarge it, or lower spec.checkpoint.keep",
    errno.EDQUOT: "raise the quota of the volume, or lower spec.checkpoint.keep",
    errno.EFBIG: "raise the file size limit (ulimit -f), or write smaller files",
    errno.EROFS: "mount the volume writable",
    errno.EACCES: "make the directory writable for uid {uid}, for example with fsGroup",
    errno.EPERM: "make the directory writable for uid {uid}, for example with fsGroup",
    errno.EEXIST: "give each start of the processes an attempt of its own (GOODPUT_ATTEMPT)",
    errno.EINVAL: "write the content itself into the directory that `saving` gives",
    errno.EIO: "the storage fails: look at the volume and its node",
    errno.ESTALE: "the storage was exchanged under its mount: start the worker anew",
}


class CheckpointError(Exception):
    """A checkpoint could not be saved, or none of those that exist can be restored.

    A failed save leaves the older checkpoints as they were, and the training state in memory
    untouched: a trainer may catch this, go on, and save again at a later step.

    Attributes:
        path: where it happened.
    """

    def __init__(self, message: str, path: str = "") -> None:
        super().__init__(message)
        self.path = path

    @classmethod
    def of(cls, error: OSError, doing: str, path: str) -> "CheckpointError":
        """Say what failed, where, and what helps against it."""
        where = os.fsdecode(error.filename) if isinstance(error.filename, (str, bytes)) else path
        reason = error.strerror or str(error) or type(error).__name__
        remedy: Optional[str] = _REMEDIES.get(error.errno or 0)
        text = "{} failed: {}: {}".format(doing, where, reason)
        if remedy:
            text += "; " + remedy.format(uid=os.getuid())
        return cls(text, where)


class ReshardError(CheckpointError):
    """A checkpoint cannot be loaded by another number of ranks than those that saved it.

    The operator then tries no more to run the job at this size. A trainer that loads its state by
    itself may raise it, too.
    """
