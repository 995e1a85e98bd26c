"""What was timed or counted on this machine for the pages: serving, speculation, its distributions and its answers."""
