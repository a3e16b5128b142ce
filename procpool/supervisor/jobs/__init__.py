"""What is sent to a worker, and what its answer means."""
