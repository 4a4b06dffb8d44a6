"""What to do about it: rules, in one order, over values. No clock, no I/O."""
