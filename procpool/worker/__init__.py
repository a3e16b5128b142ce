"""The child's side.  Nothing here is imported by the parent."""
