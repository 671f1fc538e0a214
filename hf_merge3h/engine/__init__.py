"""Planning and running a merge: headers first, then one group of tensors at a time."""
