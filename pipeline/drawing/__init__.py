"""All drawing: text, palettes, mosaics, contact sheets, plots. NumPy in, pictures out."""
