"""`kubectl goodput`: where the accelerators' time goes, told to the people who pay for it.

It needs nothing but Python, so that it starts in a blink: it reads TrainingJobs as the API
server gives them, and nothing of the operator but its names and errors. rich, where it is
there, brings colours and the live view to a terminal.

    access      kubectl, or a pod's own account             I/O, read only
    job         -> Job, Pod, Event: what was read           pure, takes any text for what it is
    top, status, explain, timeline, report  -> Page         pure
    terminal    a Page as text, in colours, or live         I/O
"""
