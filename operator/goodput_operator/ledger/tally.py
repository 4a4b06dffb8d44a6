"""Accelerator-milliseconds by bucket: the sum that everything else keeps.

Pure, and whole numbers only: nanoseconds of ten thousand accelerators would leave 64 bits within
eleven days, and a float would not come out even.
"""

from dataclasses import dataclass, field

from goodput_operator.api.status import Bucket


@dataclass(slots=True)
class Tally:
    """Every accelerator-millisecond up to `until`, each in one bucket or unsettled.

    Attributes:
        weight: accelerators that do what is added.
        until: time up to here is counted, in milliseconds since whatever moment.
        missing: further accelerators that are wanted and not there; their time is `degraded`.
        spare: further ones that stand by; their time is `spare`.
        buckets: what is settled.
        unsettled: work of which nobody knows yet whether it will last.
        payer: the attempt whose incident pays for what goes into a bucket; None: nobody does.
        prices: what was paid for, by attempt and bucket.
    """

    weight: int
    until: int = 0
    missing: int = 0
    spare: int = 0
    buckets: dict[Bucket, int] = field(default_factory=dict)
    unsettled: int = 0
    payer: int | None = None
    prices: dict[int, dict[Bucket, int]] = field(default_factory=dict)

    def add(self, until: int, bucket: Bucket | None) -> int:
        """Add the time up to `until`; of None it is unsettled. Return what was added.

        What lies before the present end is not counted again.
        """
        milliseconds = until - self.until
        if milliseconds <= 0:
            return 0
        self.until = until
        cost = milliseconds * self.weight
        if self.missing:
            self._put(Bucket.DEGRADED, milliseconds * self.missing)
        if self.spare:
            held = milliseconds * self.spare
            self.buckets[Bucket.SPARE] = self.buckets.get(Bucket.SPARE, 0) + held
        if bucket is None:
            self.unsettled += cost
        else:
            self._put(bucket, cost)
        return cost

    def move(self, amount: int, bucket: Bucket) -> None:
        """Settle so much of the unsettled work, or as much as there is, in `bucket`."""
        moved = max(0, min(amount, self.unsettled))
        self.unsettled -= moved
        self._put(bucket, moved)

    def take_back(self, since: int) -> None:
        """Un-count the unsettled work since then, if all of that is still unsettled."""
        amount = (self.until - since) * self.weight
        if 0 < amount <= self.unsettled:
            self.unsettled -= amount
            self.until = since

    def _put(self, bucket: Bucket, amount: int) -> None:
        self.buckets[bucket] = self.buckets.get(bucket, 0) + amount
        if self.payer is not None and amount and bucket is not Bucket.PRODUCTIVE:
            price = self.prices.setdefault(self.payer, {})
            price[bucket] = price.get(bucket, 0) + amount
