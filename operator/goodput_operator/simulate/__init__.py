"""The operator's own decisions under a virtual clock, on recorded failures of nodes."""
