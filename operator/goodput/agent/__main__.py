"""The first file that the user's Python sees: it must parse in every Python since 2.7."""

import sys


def _refuse(why):  # type: ignore[no-untyped-def]
    message = "goodput: " + why + "; the image needs Python 3.8 or newer\n"
    sys.stderr.write(message)
    try:
        with open("/dev/termination-log", "w") as log:
            log.write(message)
    except (IOError, OSError):
        pass
    sys.exit(97)  # protocol.EXIT_CODE_PYTHON_TOO_OLD; that module cannot be read here


if __name__ == "__main__":
    if sys.version_info < (3, 8):
        _refuse(  # type: ignore[no-untyped-call,unused-ignore]
            "Python %d.%d is too old" % sys.version_info[:2]
        )
    try:
        import ssl  # noqa: F401
    except ImportError:
        _refuse("this Python has no ssl module")  # type: ignore[no-untyped-call]
    from goodput.agent.supervisor import main

    main(sys.argv[1:])
