"""The agent: PID 1 of the trainer's container. It obeys the operator and says what is.

    core          what to do next: pure, time comes in as an argument      <- read this first
    environment   what the training processes find: pure
    settings      what the operator wrote on the container: pure
    processes     start, signal and reap, and the evidence of an end
    output        the processes' words: passed on, the last ones kept
    link          the connection to the operator
    trainer       the datagrams of the training processes, and the file they read
    disk          what lies in the checkpoint directory
    supervisor    the loop that joins them
    build         the zipapp in which all this travels into the user's image

Python 3.8 and its standard library are all that may be used here.
"""
