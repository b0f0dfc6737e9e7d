"""Learning rates over time, and hyperparameters over batch sizes."""
