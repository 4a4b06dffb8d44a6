"""Where the accelerators' time went: integer arithmetic in which nothing is lost."""
