"""Benchmarks: each prints what it does on standard error, and one JSON object last.

They assert no times: a benchmark that runs is a measurement, and a machine that is busy with
something else makes it a bad one (`/proc/loadavg` at the start is part of what is printed).
"""
