"""Optimisers for many workers: compressed gradients, and averages of the weights now and then."""
