"""The steering vector and its file. No torch."""
