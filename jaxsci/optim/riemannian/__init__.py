"""Optimisers whose weights are points of manifolds."""
