"""Kubernetes objects as plain values, for every mode that runs on a cluster; `dumping.py` writes them."""
