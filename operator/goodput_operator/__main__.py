"""`python -m goodput_operator`: one replica of the operator."""

import asyncio
import gc
import logging
import sys

from goodput_operator.controller import logs, settings
from goodput_operator.errors import GoodputError

COLLECT_AFTER_OBJECTS = 20_000
"""Python looks for cycles of garbage after so many new objects. Its own 700 is less than one status
of a large gang is read into, and every hundredth look walks over all that is kept of all jobs."""


def main() -> None:
    """Run until told to end; exit status 0 then, 1 after a failure, 2 for bad flags."""
    given = settings.parse(sys.argv[1:])
    logs.configure(given.log_format, given.log_level)
    from goodput_operator.controller import runtime  # --help should not load every client

    gc.set_threshold(COLLECT_AFTER_OBJECTS)
    gc.freeze()  # what is loaded by now stays

    try:
        status = asyncio.run(runtime.run(given))
    except (GoodputError, OSError) as error:
        logging.getLogger(__name__).critical("the process ends: %s", error)
        status = 1
    sys.exit(status)


if __name__ == "__main__":
    main()
