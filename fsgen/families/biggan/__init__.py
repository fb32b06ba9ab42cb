"""BigGAN and, on the same backbone, IC-GAN: networks, reading other people's checkpoints, the family."""
