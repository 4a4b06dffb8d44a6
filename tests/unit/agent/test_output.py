"""The end of a process's output, and the exception in it."""

import pytest

from goodput.agent.output import TAIL_BYTES, Tail

TRACEBACK = """\
Traceback (most recent call last):
  File "train.py", line 9, in <module>
    main()
torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2.00 GiB
"""


def exception_of(text: str) -> str:
    tail = Tail()
    for line in text.splitlines():
        tail.feed(line.encode())
    return tail.exception


@pytest.mark.parametrize(
    ("text", "exception"),
    [
        pytest.param("all is well\n", "", id="none"),
        pytest.param(
            "step 1\n" + TRACEBACK + "bye\n",
            "torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2.00 GiB",
            id="plain",
        ),
        pytest.param(
            "".join("[rank3]: " + line + "\n" for line in TRACEBACK.splitlines()),
            "torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2.00 GiB",
            id="with torch's prefix",
        ),
        pytest.param(
            TRACEBACK + "\nDuring handling of the above exception, another exception occurred:\n\n"
            "Traceback (most recent call last):\n  File\nKeyError: 'x'\n",
            "KeyError: 'x'",
            id="the last of a chain",
        ),
        pytest.param(
            "  + Exception Group Traceback (most recent call last):\n"
            '  |   File "a.py", line 1, in <module>\n'
            "  | ExceptionGroup: many (2 sub-exceptions)\n"
            "  +-+---------------- 1 ----------------\n"
            "    | ValueError: 1\n",
            "ExceptionGroup: many (2 sub-exceptions)",
            id="group",
        ),
        pytest.param(
            TRACEBACK + "Traceback (most recent call last):\n  File\n"
            "torch.distributed.elastic.multiprocessing.errors.ChildFailedError: \n",
            "torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2.00 GiB",
            id="the child's, not its launcher's",
        ),
        pytest.param(
            "Traceback (most recent call last):\n  File\n\nKeyboardInterrupt\n",
            "KeyboardInterrupt",
            id="without a message",
        ),
        pytest.param("Traceback (most recent call last):\n  File", "", id="cut short"),
    ],
)
def test_the_exception_is_the_last_tracebacks_last_line(text: str, exception: str) -> None:
    assert exception_of(text) == exception


def test_the_exception_outlives_the_lines_that_follow_it() -> None:
    assert exception_of(TRACEBACK + "cleaning up\n" * 10_000).startswith("torch.OutOfMemory")


def test_the_last_lines_are_bounded_in_bytes() -> None:
    tail = Tail()
    for number in range(10_000):
        tail.feed(b"line %d" % number)
    tail.feed(b"x" * 1_000_000)
    lines = tail.last_lines()
    assert sum(len(line) + 1 for line in lines) <= TAIL_BYTES
    assert lines[-2] == "line 9999"


def test_of_a_progress_bar_the_last_state_is_kept() -> None:
    tail = Tail()
    tail.feed(b" 10%\r 50%\r100%")
    tail.feed(b"windows\r")
    assert tail.last_lines() == ("100%", "windows")


def test_bytes_that_are_no_text_are_shown_as_such() -> None:
    tail = Tail()
    tail.feed(b"\xff\x00ok")
    assert tail.last_lines() == ("\ufffd\x00ok",)
