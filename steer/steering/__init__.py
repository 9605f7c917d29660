"""Steers as the user writes them and as data. No torch."""
