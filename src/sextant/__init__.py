"""Sextant: a private DeepSeek, from one document to a governed, running service."""

__version__ = "0.1.0"
