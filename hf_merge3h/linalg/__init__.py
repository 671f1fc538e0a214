"""Kernels: pure functions over tensors that know nothing of methods or models."""
