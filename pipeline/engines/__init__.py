"""Who runs the shards; every engine calls the same scan."""
