"""Winners to patches: cropped from the source images, stored, indexed and laid out as mosaics."""

from pipeline.patches.pictures import PatchOptions
from pipeline.patches.winners import Winners, winners_of
from pipeline.patches.writing import write_patches

__all__ = ["PatchOptions", "Winners", "winners_of", "write_patches"]
