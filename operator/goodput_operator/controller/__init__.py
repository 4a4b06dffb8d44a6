"""The outermost layer: the watch of TrainingJobs, the work queue, the life of the process."""
