"""The HTTP edge: the route table's handlers, authentication, and the pages for a browser."""
