"""Other tools' vector files, a module for each kind: bytes to numbers and back. No torch."""
