"""What moves runs: the loop, its pure decisions, and the only writer of a status."""
