"""One module per kind of figure: a config's numbers → a drawing with its words."""
