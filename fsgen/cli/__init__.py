"""The command line: one file per command. Importing any of them loads no torch."""
