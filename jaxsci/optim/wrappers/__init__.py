"""Optimisers around optimisers: gradients at other points than the weights."""
