"""Distil a prompt condition into an edit, or a learned token, with the same effect."""
