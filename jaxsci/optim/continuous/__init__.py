"""Optimisers in continuous time: their stochastic differential equations, and SVAG."""
