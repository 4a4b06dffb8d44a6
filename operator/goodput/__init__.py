"""What runs beside the training code: the agent, and the optional SDK. Standard library only."""
