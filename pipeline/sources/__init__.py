"""Where images come from: one file a kind, one protocol for all."""
