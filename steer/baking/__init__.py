"""Steering written into the weights: a checkpoint that any engine serves, with no hook."""
