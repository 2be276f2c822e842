"""Metrics as published implementations compute them, a file for each kind of metric; and what both cost."""
