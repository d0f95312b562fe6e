"""Learned kernels: which ones, what is said of them, and how they are drawn."""

from pipeline.filters.stage import check_filters, filters

__all__ = ["check_filters", "filters"]
