"""What one step of a serving engine costs, in time and memory."""
