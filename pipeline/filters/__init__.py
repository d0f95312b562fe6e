"""Learned kernels: which ones are looked at, and what is said of them."""
