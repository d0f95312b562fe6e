"""Learned kernels: which ones are drawn, their statistics and their pictures."""
