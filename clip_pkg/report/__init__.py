"""A run as a page to read, figures to print and words to paste, from the files it left."""
