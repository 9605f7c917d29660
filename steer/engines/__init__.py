"""Other engines: what they serve, and whether they steer."""
