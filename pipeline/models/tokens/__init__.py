"""Tokens as maps: where on the image each row of a tensor lies, and the view of it that is a map."""
