"""The hosts' side of a cluster."""
