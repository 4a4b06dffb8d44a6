"""One event is one line."""

import json
import logging
import sys

from goodput_operator.controller.logs import JsonFormatter


def test_a_line_for_machines_is_one_json_object_whatever_was_said() -> None:
    try:
        int("first\nsecond")
    except ValueError:
        record = logging.LogRecord(
            "goodput", logging.ERROR, __file__, 1, 'job "%s"\nfailed', ("ä",), sys.exc_info()
        )
    line = JsonFormatter().format(record)
    assert "\n" not in line
    read = json.loads(line)
    assert (read["level"], read["message"]) == ("error", 'job "ä"\nfailed')
    assert "ValueError: invalid literal" in read["error"]
    assert read["time"].endswith("Z")
