"""Other engines: what they serve and whether they steer; vLLM, steered by the same vectors."""
