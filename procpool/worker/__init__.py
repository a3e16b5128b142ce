"""The child's side.  No pool imports it; a command in the foreground runs by it."""
