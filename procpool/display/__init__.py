"""How pools, their figures and reports are shown.  The core imports this only when asked to show something."""
