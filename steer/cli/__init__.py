"""The terminal: arguments in, text out. No maths and no tensors here."""
