"""What the cluster looks like, as values. Pure: it reads raw objects and knows no API."""
