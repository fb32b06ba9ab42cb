"""StyleGAN2 (Karras et al. 2020), conditional or not, with the checkpoints of its two public layouts."""
