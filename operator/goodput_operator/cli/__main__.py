"""`python -m goodput_operator.cli`: the same as `kubectl goodput`."""

from goodput_operator.cli.main import main

if __name__ == "__main__":
    main()
