"""Components: their WIT types and values, which need no process.

`binary.read_world` reads the world of a component, `wrapper.wrap` puts the component into another that takes and gives
images, and `codec.ComponentCodec` turns arguments into an image and an image into a result.
"""
