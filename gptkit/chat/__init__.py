"""A conversation at a terminal, and the parts of it that know no terminal."""
