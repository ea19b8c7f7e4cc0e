"""Unix sockets: the transport of the embedded profile."""
