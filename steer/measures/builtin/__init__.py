"""One module for each measure, with its `MEASURE`; a new measure is a new module.

The registry finds them as it finds those of other packages: nothing imports them by name.
"""
