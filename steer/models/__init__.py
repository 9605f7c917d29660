"""The door to transformers and TransformerLens."""
