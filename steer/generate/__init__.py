"""Steered generation: one prompt, many prompts, a conversation."""
