"""The GPT for inference on a CPU, by kernels of our own: an extra, `fast`, which needs numba."""
