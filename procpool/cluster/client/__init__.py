"""The program's side of a cluster."""
