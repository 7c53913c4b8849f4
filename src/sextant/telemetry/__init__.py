"""The metric table, structured logs. Every metric is declared once, in `table.py`."""
