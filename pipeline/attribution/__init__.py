"""What made a network decide: gradient-based maps of its evidence for a class, and whether they can be trusted."""
