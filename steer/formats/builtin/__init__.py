"""One module for each format of another tool, with its `FORMAT`. To add a format, add a module."""
