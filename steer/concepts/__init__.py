"""Make vectors from concepts, such as two words.

A concept has two poles. Each becomes a condition under which the model answers the same everyday
questions. The difference of the activations is the vector, and answers to held-out questions decide
whether it works. A pack is a file of concepts.
"""
