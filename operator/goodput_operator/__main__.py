"""`python -m goodput_operator`: one replica of the operator."""

import asyncio
import logging
import sys

from goodput_operator.controller import logs, settings
from goodput_operator.errors import GoodputError


def main() -> None:
    """Run until told to end; exit status 0 then, 1 after a failure, 2 for bad flags."""
    given = settings.parse(sys.argv[1:])
    logs.configure(given.log_format, given.log_level)
    from goodput_operator.controller import runtime  # --help should not load every client

    try:
        status = asyncio.run(runtime.run(given))
    except (GoodputError, OSError) as error:
        logging.getLogger(__name__).critical("the process ends: %s", error)
        status = 1
    sys.exit(status)


if __name__ == "__main__":
    main()
