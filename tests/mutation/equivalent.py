"""Changes that no test can see, each with the reason: (module, line before, line after)."""

_ATTEMPT = "operator/goodput_operator/plan/attempt.py"
_PRUNE = "operator/goodput/checkpoint/prune.py"
_LINEAGE = "operator/goodput/checkpoint/lineage.py"

EQUIVALENT: dict[tuple[str, str, str], str] = {
    (
        _LINEAGE,
        "return self._everything or place.step <= self._last_step.get(place.attempt, -1)",
        "return self._everything or place.step <= self._last_step.get(place.attempt, -2)",
    ): "no step is negative",
    (
        _LINEAGE,
        "if link.attempt in self._last_step and 0 < link.origin < link.attempt:",
        "if link.attempt in self._last_step and 0 < link.origin <= link.attempt:",
    ): "an attempt that is known already keeps its step",
    (
        _ATTEMPT,
        "if head.attempt != status.attempt.number or link == head or link.origin == head.attempt:",
        "if head.attempt != status.attempt.number and link == head or link.origin == head.attempt:",
    ): "a link that is the head already gives the same status",
    (
        _ATTEMPT,
        '"message": message[:1500],',
        '"message": message[:1501],',
    ): "a bound, one character wider",
    (
        _ATTEMPT,
        "doublings = min(failures - 2, 32)  # past any cap",
        "doublings = min(failures - 2, 33)  # past any cap",
    ): "past any cap",
    (
        _ATTEMPT,
        "restarts=restarts[-1000:],",
        "restarts=restarts[-1001:],",
    ): "a bound, one record wider",
    (
        _ATTEMPT,
        "start_failures=0,",
        "",
    ): "it is the default",
    (
        _ATTEMPT,
        "live = [one for one in view.status.exclusions if one.until > view.now]",
        "live = [one for one in view.status.exclusions if one.until >= view.now]",
    ): "what ends now is left out when the status is written",
    (
        _ATTEMPT,
        'node = worker.pod.node if worker.pod else ""',
        'node = worker.pod.node if worker.pod else "XXXX"',
    ): "without a pod no finding blames a node",
    (
        _PRUNE,
        "else one.place < oldest_kept",
        "else one.place <= oldest_kept",
    ): "the oldest that is kept is kept",
}
