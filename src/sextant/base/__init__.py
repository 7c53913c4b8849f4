"""Ground everything stands on: errors, configuration, clock, ids, retry. Imports nothing of Sextant."""
