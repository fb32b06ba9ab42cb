"""One file per method. Importing one loads no torch, so that its options can be read for ``--help``."""
