"""What every other room stands on: errors, files, text, intervals, journals."""
