"""Training objectives: the contract, plain functions, one file per family, and the table."""
