"""Tokens as maps: which part of the image each token belongs to, and how a tensor of tokens becomes a map."""
