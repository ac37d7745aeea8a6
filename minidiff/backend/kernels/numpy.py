"""Fast kernels for NumPy; each overrides the definition of the same name in `reference`."""
