"""Feature maps: the map of every channel of a layer for single images, measured and drawn."""
