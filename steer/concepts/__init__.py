"""Concepts: what a vector is to carry, said in words, and how a model itself makes the contrast.

A concept has two poles. Each becomes a condition, under which the model answers the same everyday
questions; the difference of its activations is the vector, and answers to held-out questions decide
whether it is worth keeping. A pack is a file of concepts.
"""
