"""Benchmarks: each a program that measures ours beside a yardstick, in one run, and prints a table."""
