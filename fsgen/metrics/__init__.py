"""Statistics: feature sets in, numbers out. No networks."""
