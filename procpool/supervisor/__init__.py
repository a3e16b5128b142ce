"""The parent's side.  Nothing here is imported by a worker."""
