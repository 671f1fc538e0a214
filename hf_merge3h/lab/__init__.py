"""Training and measuring the demo experts. Nothing here is needed to merge models."""
