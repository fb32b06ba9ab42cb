"""Draw from a model: inputs from seeds, images from inputs, files from images."""
