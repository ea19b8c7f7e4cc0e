"""Daemons: receive a batch, call the domain through ports, reply. They never import `cli`."""

import os
import sys

if given := os.environ.get(
    "PYTHONPATH"
):  # it may hold modules of the names of Python's or ours: search it last
    folders = {os.path.abspath(folder) for folder in given.split(os.pathsep)}
    sys.path.sort(key=lambda folder: folder in folders)
