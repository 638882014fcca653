"""HTTP: from a socket to a request, and from an answer or an error back to the socket."""
