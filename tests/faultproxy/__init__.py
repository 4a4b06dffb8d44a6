"""A proxy between an operator and a real API server that harms requests by plan."""
