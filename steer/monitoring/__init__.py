"""Projections of tokens on vectors, and how they are shown."""
