"""`steer serve`: an OpenAI-compatible server, whose requests each say how they are steered."""
