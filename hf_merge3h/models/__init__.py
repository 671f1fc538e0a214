"""Where tensors live: live modules, checkpoints, adapters; and how results are written back."""
