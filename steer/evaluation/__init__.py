"""eval and sweep: many ways of steering scored in one batch, and what follows."""
