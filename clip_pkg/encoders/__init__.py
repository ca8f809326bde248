"""Image and text encoders, and where their weights come from."""
