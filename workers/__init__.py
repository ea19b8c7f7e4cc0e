"""Daemons: receive a batch, call the domain through ports, reply. They never import `cli`."""
