"""The inference methods, a file each, and the guides."""
