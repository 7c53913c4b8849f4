"""Ground everything stands on: errors, configuration, ids, the tie between parent and child processes."""
