"""Where a worker runs: each module here starts one, brings its journal home and tells how it ended."""
