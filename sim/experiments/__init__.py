"""The four experiments: condition corruption, paths, ambient, memorisation. `registry.EXPERIMENTS` lists them."""
