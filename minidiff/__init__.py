"""minidiff: diffusion models from scratch in NumPy.

The parts, from the bottom up; each imports only what stands above it in this list:

- ``minidiff.backend``: NumPy or CuPy, chosen once by ``MINIDIFF_BACKEND``
- ``minidiff.autograd``, ``minidiff.ops``: reverse-mode differentiation, and the functions it knows
- ``minidiff.nn``, ``minidiff.optim``, ``minidiff.unet``: layers, optimizers and the network
- ``minidiff.diffusion``: schedules, the forward process, losses, samplers and guidance
- ``minidiff.data``, ``minidiff.training``: digits, training runs
- ``minidiff.plot``, ``minidiff.cli``: pictures, command line

Importing the package itself loads none of them.
"""

__version__ = "0.1.0"
