"""What the small model reads: texts as tokens, instructions, digits, and Markov chains; by name in `sources`."""
