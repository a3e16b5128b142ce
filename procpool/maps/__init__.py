"""Maps: one export or callable over many items."""
