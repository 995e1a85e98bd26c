"""The Anatomy of GPT-4: cost models, a small model that runs, the ledger of claims, and what the book is made with.

Rooms, each importing only from those after it: site; claims, validate; train; cost, model; specs.
"""

from importlib.metadata import version

__version__ = version("anatomy-of-gpt4")
