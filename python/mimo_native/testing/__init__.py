"""Tools for testing kernels: ``ptxsim`` runs and checks CUDA kernels on machines without a GPU."""
