"""The only place that draws: text, palettes, mosaics, contact sheets, plots. NumPy in, pictures out."""
