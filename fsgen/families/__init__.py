"""Generator families: networks, losses, conversion of published checkpoints."""
