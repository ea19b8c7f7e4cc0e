"""The command line: asks workers through a transport, never opens a store itself."""
