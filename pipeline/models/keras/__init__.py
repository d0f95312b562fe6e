"""Networks that Keras builds or loads."""
