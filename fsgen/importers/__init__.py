"""Read other people's checkpoints without executing anything in them."""
