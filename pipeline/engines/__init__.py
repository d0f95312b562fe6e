"""Engines run the shards of a scan: in this process, or on a Ray cluster."""
