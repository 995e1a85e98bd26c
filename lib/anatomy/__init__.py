"""The Anatomy of GPT-4: cost models, a small model that runs, the ledger of claims, and what the book is made with.

Rooms, each importing only from those after it:
site; claims, validate; measure; train, decode; cost, model; specs; memo.
"""

from importlib.metadata import version

__version__ = version("anatomy-of-gpt4")
