"""Recipes: what a YAML file asks for, in mergekit's schema and ours, read, checked and resolved tensor by tensor."""
