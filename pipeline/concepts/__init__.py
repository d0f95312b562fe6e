"""Names for channels: how well each concept, of labels, embeddings or masks, agrees with a channel's responses."""
