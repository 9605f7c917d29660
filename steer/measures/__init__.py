"""What is measured, on what grid, and how it is drawn. No torch."""
