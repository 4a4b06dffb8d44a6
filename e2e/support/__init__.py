"""What the end-to-end tests, the demo and `make` share."""
