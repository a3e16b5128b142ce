"""Dask.distributed as the engine: membership, deployment, transport."""
