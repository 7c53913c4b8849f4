"""Benchmarks: what the gateway and the embedded engine do beside their peers, in one run on one machine."""
