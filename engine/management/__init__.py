"""The management interface as clients and the daemon both see it: its schema, and the client's side of the socket."""
