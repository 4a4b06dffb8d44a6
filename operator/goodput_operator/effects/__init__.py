"""What touches the world: the API server, its caches, the lease, certificates, the clock.

The only package that imports `kubernetes`, and only `gateway` does.
"""
