"""One module for each op, with its `OP`; a new op is a new module.

They are plugged in as those of other packages are: nothing imports them by name.
"""
