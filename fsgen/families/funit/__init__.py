"""FUNIT (Liu et al. 2019): networks, key conversion, family."""
