"""Write steering into the weights: a checkpoint that any engine serves without hooks."""
