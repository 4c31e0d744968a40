"""A web service's own processes: a supervisor, and a front that speaks HTTP to callers and a socket to the model."""
