"""What a worker gives up before guest code runs; one module for each kind of thing."""
