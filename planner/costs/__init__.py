"""Cost models: time, memory and traffic of a strategy, each formula with its source."""
