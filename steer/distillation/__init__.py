"""From a condition to an edit that does what it does."""
