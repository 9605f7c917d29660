"""Steers: their grammar, and their data types. No torch."""
