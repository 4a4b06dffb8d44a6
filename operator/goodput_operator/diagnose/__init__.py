"""What is wrong, with evidence and certainty. Findings, never actions."""
