"""The compose files with an engine: which engine there is, the images they need, and a copy of the project that runs.

Promise: everything that is made carries the name of the run and is removed with it, images included.
"""
