"""Other engines: vLLM steered by the same vectors, Ray workers, and a probe of running servers."""
