"""Other libraries: one small file each, the only places that import them."""
