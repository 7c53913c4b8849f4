"""The task families: one file per family, each a pure `make(rng, language) -> Problem`."""
