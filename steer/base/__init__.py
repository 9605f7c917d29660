"""The basis of all other rooms: errors, files, text, intervals, journals."""
