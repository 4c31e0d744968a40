"""How a user's machine or a job reaches the server: HTTP, the metrics' spool, transfer of bytes. Standard library."""
