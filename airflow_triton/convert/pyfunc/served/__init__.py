"""The files that are copied into version directories as they are: what runs there has no more than the server's Python."""
