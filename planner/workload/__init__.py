"""What has to be done: training jobs, serving loads, offers of GPUs, expert routing."""
