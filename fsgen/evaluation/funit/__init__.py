"""The evaluation protocol of FUNIT (Liu et al. 2019, section 4)."""
