"""Two measurements of the same thing held against each other."""
