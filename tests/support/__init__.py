"""What the tests share: tiny image folders, configs, and independent computations."""
