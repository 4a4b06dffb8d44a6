"""What watches the operator: Prometheus rules, Grafana dashboards, and the list of metrics.

All of it is written by `python -m monitoring`, into the chart and `docs/`.
"""
