"""FastGAN (Liu et al. 2021): networks, key conversion, family."""
