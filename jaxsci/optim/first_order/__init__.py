"""Methods that use gradients alone."""
