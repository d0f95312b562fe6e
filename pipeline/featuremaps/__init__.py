"""Feature maps: what every channel of a layer makes of single images, measured and drawn."""
