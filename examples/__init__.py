"""Small real programs over procpool; README.md lists them."""
