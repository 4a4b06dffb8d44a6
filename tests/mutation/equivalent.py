"""Changes that no test can see, each with the reason: (module, line before, line after)."""

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
}
