"""BigGAN and IC-GAN: networks, conversion of public checkpoints, family."""
