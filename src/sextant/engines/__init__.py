"""Engines behind one protocol: launch, health, stream, metrics, quirks as data. One file per engine."""
