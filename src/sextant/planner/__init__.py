"""Which hardware, how fast, what cost, how sure.

Pure: no clock, network, files or randomness; facts come in as arguments.
"""
