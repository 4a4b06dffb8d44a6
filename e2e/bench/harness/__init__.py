"""What the benchmarks share: an API tier of their own, the operator as a process, agents."""
