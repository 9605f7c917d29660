"""Our drivers of engines, a module each."""
