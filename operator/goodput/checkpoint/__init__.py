"""Checkpoints that survive: see `goodput.checkpoint.layout` for what lies on disk."""
