"""Other engines: vLLM steered by the same vectors, Ray workers, and tests of running servers."""
