"""Carries out one attempt on one node: lays out its folder, runs its processes, reports. Outlives the server."""
