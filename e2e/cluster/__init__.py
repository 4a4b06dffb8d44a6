"""A real Kubernetes on this machine, with nodes that can be broken, for tests and for trying."""
