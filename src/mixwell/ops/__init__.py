"""Tensors in, tensors out: no classes and no randomness."""
