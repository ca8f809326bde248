"""Complete programs that use the package for something other than images."""
