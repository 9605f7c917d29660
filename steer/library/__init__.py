"""The objects of the public Python API: what `import steer` gives."""
