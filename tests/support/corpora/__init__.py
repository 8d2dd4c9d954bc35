"""Each publisher's download, made up and small: `write_tree(root)` writes it."""
