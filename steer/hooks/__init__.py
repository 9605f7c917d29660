"""The hook layer: reads and writes inside a running model."""
