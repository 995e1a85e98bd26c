"""Training of the small model: data, loop, checkpoints, meshes and recipes."""
