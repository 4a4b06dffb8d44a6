"""The TrainingJob as its users write and read it. `spec` is theirs, `status` is ours."""
