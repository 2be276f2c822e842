"""Measured maps in, out: which layer, query and scaling to take, and which cannot be told apart."""
