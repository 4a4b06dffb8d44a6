"""The newest known state of every TrainingJob.

Fed by the watch (kopf), by a periodic full list that heals what a watch can miss, and by
the answers to our own writes. The newest `resourceVersion` wins: since Kubernetes 1.35
they are integers that may be compared (KEP-5504), and were so in practice before.
"""

from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from goodput_operator.observe.agents import JobKey

Job = dict[str, Any]
JobFollower = Callable[[JobKey, Job | None], None]
"""Called with the key and the new state (None: it is not there)."""
JobListener = Callable[[JobKey, Job | None, Job | None], None]
"""Called with the key, the old state and the new one (None: it is not there)."""

MAX_TOMBSTONES = 10_000


class JobStore:
    """Raw TrainingJobs by key. Lives in one event loop; nothing here blocks."""

    def __init__(self) -> None:
        self._jobs: dict[JobKey, Job] = {}
        self._tombstones: OrderedDict[JobKey, int] = OrderedDict()
        self._listeners: list[JobListener] = []
        self._followers: list[JobFollower] = []
        self._untold: dict[JobKey, list[Job | None]] = {}

    def get(self, key: JobKey) -> Job | None:
        """Return the job as last known; the caller must not change it."""
        return self._jobs.get(key)

    def keys(self) -> tuple[JobKey, ...]:
        """Return the keys of all jobs, sorted."""
        return tuple(sorted(self._jobs))

    def __len__(self) -> int:
        return len(self._jobs)

    def on_change(self, listener: JobListener) -> None:
        """Call `listener` after every change that we did not make ourselves."""
        self._listeners.append(listener)

    def on_every_change(self, follower: JobFollower) -> None:
        """Call `follower` after every change, our own writes included."""
        self._followers.append(follower)

    def put(self, job: Mapping[str, Any]) -> None:
        """Take in what a write of ours returned. It is no news, so nobody is told."""
        self._store(job)
        key = job_key(job)
        known = self._jobs.get(key)
        if key in self._untold and known is not None and version_of(known) == version_of(job):
            self._untold[key].clear()

    @contextmanager
    def writing(self, key: JobKey) -> Iterator[None]:
        """Tell nobody of this job while a write of ours is under way, but then.

        The watch may bring the write before its answer does; `put` says that it was ours. The
        write is conditional, so what it has replaced is nothing that we had not seen.
        """
        untold = self._untold[key] = []
        try:
            yield
        finally:
            del self._untold[key]
            if untold:
                self._tell(key, untold[0])

    def observe(self, job: Mapping[str, Any], *, deleted: bool = False) -> None:
        """Take in an event of the watch. What is older than the known state is ignored."""
        key = job_key(job)
        old = self._jobs.get(key)
        changed = self._remove(key, version_of(job)) if deleted else self._store(job)
        if changed:
            self._tell(key, old)

    def versions(self) -> Mapping[JobKey, int]:
        """Return the resourceVersion of every job; what `relist` compares with."""
        return {key: version_of(job) for key, job in self._jobs.items()}

    def relist(self, before: Mapping[JobKey, int], listed: Iterable[Mapping[str, Any]]) -> int:
        """Take in a full, consistent list that was asked for when `versions()` was `before`.

        What has not changed here since `before` is as the list says: gone, if it is not listed,
        and *older*, if the API server was restored from a backup. What has changed is newer
        than the list.

        Returns:
            How many jobs were not as the watch had told us.
        """
        told_now = {job_key(job): job for job in listed}
        missed = 0
        for key in sorted({*before, *told_now}):
            old, new = self._jobs.get(key), told_now.get(key)
            if old is not None and version_of(old) == before.get(key):
                changed = new is None or version_of(new) != version_of(old)
                if changed:
                    self._remove(key, version_of(old))
                if changed and new is not None:
                    self._tombstones.pop(key)
                    self._store(new)
            else:
                changed = new is not None and self._store(new)
            if changed:
                missed += 1
                self._tell(key, old)
        return missed

    def _store(self, job: Mapping[str, Any]) -> bool:
        key, version = job_key(job), version_of(job)
        known = self._jobs.get(key)
        known_version = version_of(known) if known else self._tombstones.get(key, -1)
        if version <= known_version:
            return False
        self._tombstones.pop(key, None)
        self._jobs[key] = trim(job)
        self._follow(key)
        return True

    def _remove(self, key: JobKey, version: int) -> bool:
        known = self._jobs.get(key)
        if known is not None and version < version_of(known):
            return False  # of a former job of this name
        # A late answer to a write of ours must not bring the job back.
        self._tombstones[key] = max(version, self._tombstones.pop(key, -1))
        while len(self._tombstones) > MAX_TOMBSTONES:
            self._tombstones.popitem(last=False)
        known = self._jobs.pop(key, None)
        self._follow(key)
        return known is not None

    def _follow(self, key: JobKey) -> None:
        for follower in self._followers:
            follower(key, self._jobs.get(key))

    def _tell(self, key: JobKey, old: Job | None) -> None:
        if key in self._untold:
            self._untold[key].append(old)
            return
        for listener in self._listeners:
            listener(key, old, self._jobs.get(key))


def job_key(job: Mapping[str, Any]) -> JobKey:
    """Return the key of a raw TrainingJob."""
    return job["metadata"]["namespace"], job["metadata"]["name"]


def version_of(job: Mapping[str, Any]) -> int:
    """Return the resourceVersion as the integer it is."""
    return int(job["metadata"]["resourceVersion"])


def trim(job: Mapping[str, Any]) -> Job:
    """Return the job without `managedFields`, which nobody here reads."""
    metadata = {name: value for name, value in job["metadata"].items() if name != "managedFields"}
    return {**job, "metadata": metadata}
