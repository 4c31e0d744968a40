"""Storage services: buckets and containers as datastores, and what lets us in."""
