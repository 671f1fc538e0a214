"""PEFT adapters: their exact change of each parameter of the base, and how a merged one is written."""
