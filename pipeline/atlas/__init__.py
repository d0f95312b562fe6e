"""Atlas: a map of what a layer sees, from sampled vectors that lie where their neighbours lie."""
