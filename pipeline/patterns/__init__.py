"""What the stage `patterns` adds to the ascent: which channels, and the contact sheet."""
