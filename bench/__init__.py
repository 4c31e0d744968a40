"""Benchmarks: figures beside peers and limits, never tests."""
