"""What plans say, held to real components: a training step and the memory of real modules."""
