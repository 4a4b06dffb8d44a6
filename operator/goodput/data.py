"""Which samples each rank trains on, so that a resize neither repeats nor skips one.

```python
from goodput.data import Batches, watched

batches = Batches(len(dataset))                        # batch and share from the environment
state = {"model": ..., "data": batches.state_dict()}   # what is saved and restored
loader = DataLoader(dataset, batch_sampler=batches)    # made after the restore

micro_batches = watched(loader)  # the operator's ledger tells what waiting for data costs
while batches.epoch < epochs:
    for _ in range(batches.accumulation_steps):
        loss = model(next(micro_batches)).mean() / batches.accumulation_steps
        loss.backward()
    optimizer.step()
    batches.step()
```

The samples of all epochs form one endless row, the same for every number of ranks: each epoch a
new permutation, and a batch that begins in one epoch may end in the next. A position in that row,
counted in samples, is therefore all that there is to remember. An optimizer step takes the next
global batch of the row, and each pass of it is dealt to the replicas of the model side by side;
so a step trains on the same samples at every size, and the loss goes on as if nothing had been.

Nothing is listed or shuffled in memory: a sample's place is computed (a Feistel network), so a
restore in the middle of a billion samples takes no time.
"""

import itertools
import os
from typing import Any, Dict, Iterable, Iterator, List, Mapping, Optional, TypeVar

from goodput import protocol, session

Sample = TypeVar("Sample")

_ROUNDS = 6  # four leave a bias where there is but a handful of samples
_MASK64 = (1 << 64) - 1


class Batches:
    """The micro-batches of this process, as lists of indices: a torch `batch_sampler`.

    Iterating begins at `position` and never ends. A loader may read ahead: what counts as
    trained is what `step` has said.

    Attributes:
        position: samples trained by all replicas, over all epochs.
        batch_size: samples of one optimizer step over all replicas.
        micro_batch_size: samples of one forward pass of one replica.
        accumulation_steps: forward passes of each replica for one optimizer step.
        replicas: copies of the model: the data-parallel degree.
        replica: which of them this process belongs to. Ranks that share a copy (tensor, pipeline
            and context parallelism) get the same samples.
    """

    def __init__(
        self,
        samples: Optional[int],
        *,
        batch_size: Optional[int] = None,
        micro_batch_size: Optional[int] = None,
        replica: Optional[int] = None,
        replicas: Optional[int] = None,
        shuffle: bool = True,
        seed: int = 0,
        environ: Mapping[str, str] = os.environ,
    ) -> None:
        """Take from the environment what is not given.

        Args:
            samples: of one epoch; None for a stream whose length nobody knows (see `of`).
            batch_size: GOODPUT_GLOBAL_BATCH_SIZE.
            micro_batch_size: what GOODPUT_GRADIENT_ACCUMULATION_STEPS makes of the batch; without
                it, one pass does it all.
            replica: GOODPUT_DATA_PARALLEL_RANK, else the rank where each rank is a replica.
            replicas: GOODPUT_DATA_PARALLEL_DEGREE, else the size of the world.
            shuffle: a new order in each epoch; False for the order of the data set.
            seed: of the order. All ranks give the same one, and it stays for the job's life.
            environ: the environment.

        Raises:
            ValueError: no batch size, a batch that replicas × micro-batch does not divide, or a
                share that nobody tells.
        """
        if samples is not None and samples < 1:
            raise ValueError("there is no sample to train on")
        batch_size = batch_size or _number(environ, protocol.ENV_GLOBAL_BATCH_SIZE)
        if not batch_size:
            raise ValueError(
                "no batch size: give batch_size, or set spec.parallelism.globalBatchSize"
            )
        own = session.Session(environ)
        told = _number(environ, protocol.ENV_DATA_PARALLEL_DEGREE)
        self.replicas = replicas or told or own.world_size
        self.replica = _replica(replica, self.replicas, own, environ)
        if not micro_batch_size:
            passes = _number(environ, protocol.ENV_GRADIENT_ACCUMULATION_STEPS) or 1
            micro_batch_size = batch_size // (self.replicas * passes) or 1
        self.accumulation_steps, left = divmod(batch_size, self.replicas * micro_batch_size)
        if left or not self.accumulation_steps:
            raise ValueError(
                "a batch of {} cannot be dealt to {} replicas in micro-batches of {}".format(
                    batch_size, self.replicas, micro_batch_size
                )
            )
        self.batch_size = batch_size
        self.micro_batch_size = micro_batch_size
        self.position = 0
        self._samples = samples
        self._shuffle = shuffle and samples is not None
        self._seed = seed

    @property
    def epoch(self) -> int:
        """How many epochs have been trained to their end."""
        return self.position // self._samples if self._samples else 0

    def step(self) -> None:
        """Say that an optimizer step is done: a whole global batch has been trained."""
        self.position += self.batch_size

    def state_dict(self) -> Dict[str, Any]:
        """Return what belongs into a checkpoint; it is the same on every rank."""
        return {
            "position": self.position,
            "samples": self._samples,
            "shuffle": self._shuffle,
            "seed": self._seed,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from a checkpoint, with any number of replicas and any batch size.

        Raises:
            ValueError: it counts along another order, so its position means nothing here.
        """
        mine = self.state_dict()
        other = sorted(name for name in mine if name != "position" and state[name] != mine[name])
        if other:
            raise ValueError(
                "the checkpoint's samples are in another order: "
                + ", ".join("{} {} → {}".format(name, state[name], mine[name]) for name in other)
            )
        self.position = int(state["position"])

    def __iter__(self) -> Iterator[List[int]]:
        if self._samples is None:
            raise ValueError("a stream has no indices: use of(stream)")
        for first in itertools.count(self.position, self.batch_size):
            for offset in self._offsets():
                places = range(first + offset, first + offset + self.micro_batch_size)
                yield [self.index(place) for place in places]

    def of(self, stream: Iterable[Sample]) -> Iterator[List[Sample]]:
        """Return this process's micro-batches of a plain iterable, in its own order.

        Every replica reads the whole stream, in the same order, and keeps its share; what was
        trained before is read and dropped. With a known number of samples the iterable is begun
        anew for each epoch; else it ends with the last whole batch, on all replicas alike.
        """
        row = iter(stream)
        skipped = self.position
        if self._samples is not None:
            row = self._epochs(stream)
            skipped %= self._samples
        row = itertools.islice(row, skipped, None)
        while True:
            batch = list(itertools.islice(row, self.batch_size))
            if len(batch) < self.batch_size:
                return
            for offset in self._offsets():
                yield batch[offset : offset + self.micro_batch_size]

    def index(self, place: int) -> int:
        """Return the index of the sample at this place of the endless row."""
        samples = self._samples or place + 1
        epoch, place = divmod(place, samples)
        return permuted(place, samples, (self._seed, epoch)) if self._shuffle else place

    def _offsets(self) -> Iterator[int]:
        """Return where this replica's micro-batches begin in a global batch."""
        width = self.micro_batch_size
        first = self.replica * width
        return iter(range(first, self.batch_size, self.replicas * width))

    def _epochs(self, stream: Iterable[Sample]) -> Iterator[Sample]:
        while True:
            count = 0
            for sample in itertools.islice(stream, self._samples):
                count += 1
                yield sample
            if count != self._samples:
                raise ValueError(
                    "an epoch had {} samples, not {}; an iterable that can be read only once "
                    "needs samples=None".format(count, self._samples)
                )


def watched(loader: Iterable[Sample]) -> Iterator[Sample]:
    """Yield what `loader` yields, and count for how long the training stands waiting for it.

    ```python
    for batch in watched(loader):
        train(batch)
    ```

    What a loader prepares while the training computes is not waited for, and so not counted. The
    operator's ledger has the rest as `data_stall`, from the first step on.
    """
    told, rows = session.current(), iter(loader)
    while True:
        with told.stalled(session.DATA):
            try:
                one = next(rows)
            except StopIteration:
                return
        yield one


def permuted(place: int, samples: int, key: Iterable[int]) -> int:
    """Return where `place` of range(samples) lies in the permutation that `key` stands for.

    A Feistel network permutes the next power of four; places that it throws out of the range go
    through it again until they fall inside, which keeps it a permutation (cycle walking).
    """
    half = max(1, ((samples - 1).bit_length() + 1) // 2)
    mask = (1 << half) - 1
    salt = 0
    for part in key:
        salt = _mixed(salt ^ part)
    while True:
        left, right = place >> half, place & mask
        for number in range(_ROUNDS):
            left, right = right, left ^ (_mixed(salt + (number << 32) + right) & mask)
        place = left << half | right
        if place < samples:
            return place


def _mixed(value: int) -> int:
    """Return 64 bits that depend evenly on all bits of `value` (the end of SplitMix64)."""
    value = (value + 0x9E3779B97F4A7C15) & _MASK64
    value = ((value ^ (value >> 30)) * 0xBF58476D1CE4E5B9) & _MASK64
    value = ((value ^ (value >> 27)) * 0x94D049BB133111EB) & _MASK64
    return value ^ (value >> 31)


def _replica(
    given: Optional[int], replicas: int, own: "session.Session", environ: Mapping[str, str]
) -> int:
    if given is None:
        given = _number(environ, protocol.ENV_DATA_PARALLEL_RANK)
    if given is None and replicas == own.world_size:
        given = own.rank
    if given is None:
        raise ValueError(
            "{} ranks hold {} replicas: say which one is this process's, replica=…".format(
                own.world_size, replicas
            )
        )
    if not 0 <= given < replicas:
        raise ValueError("replica {} of {} replicas".format(given, replicas))
    return given


def _number(environ: Mapping[str, str], name: str) -> Optional[int]:
    text = environ.get(name, "")
    return int(text) if text.isdigit() else None
