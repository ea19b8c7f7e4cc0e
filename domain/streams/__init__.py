"""The list of all streams, of every feature and of other programs. It has no events and no commands."""
