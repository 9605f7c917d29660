"""One module for each format of other tools, with its `FORMAT`; a new format is a new module."""
