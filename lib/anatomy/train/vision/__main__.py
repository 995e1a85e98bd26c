"""Sight is trained where it is missing: `python -m anatomy.train.vision`."""

from anatomy.train.vision.reading import main

main()
