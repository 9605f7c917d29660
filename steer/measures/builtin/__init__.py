"""One module for each measure, with its `MEASURE`; a new measure is a new module.

They are plugged in as those of other packages are: nothing imports them by name.
"""
