"""The benchmark of methods: conditions by every method, beside the prompt."""
