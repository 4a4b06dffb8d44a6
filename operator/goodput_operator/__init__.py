"""The operator: decides what each TrainingJob needs next, and carries it out."""
