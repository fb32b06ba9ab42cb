"""One file (or package) per family: networks, losses, conversion of published checkpoints."""
