"""The pages people read: one HTML file each, from plain data, that opens from disk and loads nothing."""
