"""The worker's side of components."""
