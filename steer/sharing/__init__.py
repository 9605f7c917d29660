"""Vectors in other places: the hub, object stores, other machines, shared folders. No torch."""
