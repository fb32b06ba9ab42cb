"""Techniques that train nothing: a source is given other conditions, or its images another style."""
