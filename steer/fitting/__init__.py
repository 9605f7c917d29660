"""Fit directions to recorded activations, in numpy. No torch."""
