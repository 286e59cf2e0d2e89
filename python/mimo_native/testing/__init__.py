"""Tools for testing kernels without a GPU.

``ptxsim`` runs and checks CUDA kernels from their PTX; ``simulated_gpu`` lets the operations of
this package run their CUDA path on CPU tensors.
"""

from .gpu import SimulatedGpu, simulated_gpu

__all__ = ["SimulatedGpu", "simulated_gpu"]
