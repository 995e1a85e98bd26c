"""What the small model reads: texts, tokens, instructions, digits, and sources of known entropy; by name in `sources`."""
