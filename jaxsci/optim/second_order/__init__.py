"""Methods that use curvature."""
