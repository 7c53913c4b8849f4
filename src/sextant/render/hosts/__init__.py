"""Servers without a cluster: units, the front, the standby pair, firewall rules, scripts, air-gapped kit.

`on_prem.py` and `edge.py` put these together. Templates only here, and only for formats that are text.
"""
