"""Process entries and the supervisor of `sextant up`."""
