"""Contrast sets: records from any file, as passages of text and tokens. No torch."""
