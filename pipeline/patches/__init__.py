"""Winners to patches: cropped from the source images, stored, indexed and laid out as mosaics."""

from pipeline.patches.winners import Winners, top_label
from pipeline.patches.writing import write_patches

__all__ = ["Winners", "top_label", "write_patches"]
