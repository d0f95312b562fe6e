"""What to run: the command line, the example specs, the cluster templates and the training job."""
