"""One module for each method, with its `METHOD`; a new method is a new module.

They are plugged in as those of other packages are: nothing imports them by name, and a method may
use any room below `evaluation`.
"""
