"""Load and wrap models. The only room that imports transformers and TransformerLens."""
