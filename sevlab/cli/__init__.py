"""The command line: one module a group of verbs, over the same names a notebook uses."""
