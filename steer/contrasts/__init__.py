"""What the user says apart: texts from any file, as passages of tokens. No torch."""
