"""From recorded activations to directions, in numpy. No torch."""
