"""Whole weights: live modules and checkpoints, by the names of their tensors on disk."""
