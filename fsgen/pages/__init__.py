"""HTML pages from plain data: one file each that opens from disk and loads nothing."""
