"""What made a network decide: gradient-based maps of its evidence for a class, and checks of those maps."""
