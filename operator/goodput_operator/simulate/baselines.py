"""What the elastic gang is compared with."""

from goodput_operator.simulate.gang import Costs, Outcome, simulate
from goodput_operator.simulate.trace import Trace


def best_fixed(trace: Trace, costs: Costs) -> tuple[int, Outcome]:
    """Return the size at which a fixed gang does best on this trace, known only in hindsight.

    Its surplus nodes are spares that need no preparation. A size s cannot do better than s × the
    time in which s nodes were healthy, so sizes are tried from the best such bound on, until the
    next bound is no better than what was reached.
    """
    healthy = trace.milliseconds_by_healthy()
    bounds = sorted(
        (
            (size * sum(lasted for number, lasted in healthy.items() if number >= size), size)
            for size in range(1, trace.wanted + 1)
        ),
        reverse=True,
    )
    capacity = trace.wanted * trace.milliseconds
    size = bounds[0][1]
    best = simulate(trace, (size,), costs)
    for bound, other in bounds[1:]:
        if bound <= best.of_capacity * capacity:
            break
        outcome = simulate(trace, (other,), costs)
        if outcome.of_capacity > best.of_capacity:
            size, best = other, outcome
    return size, best
