"""Limits kept in Redis, exact for any number of gateway processes."""
