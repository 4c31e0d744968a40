"""Where runs are carried out: the seam (start, poll, stop) and one module an engine."""
