"""Which GPUs to rent, how many, in which layout, and which requests go where."""
