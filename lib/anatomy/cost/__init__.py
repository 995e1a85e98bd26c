"""Cost models: pure functions from specs to estimates, for jit, vmap, grad and the page alike."""
