"""Speculative decoding: drafts, their verification, and the loop around both."""

from anatomy.decode.speculation.adaptive import AdaptiveLength
from anatomy.decode.speculation.draft_model import DraftModel
from anatomy.decode.speculation.drafts import Drafter
from anatomy.decode.speculation.prompt_lookup import PromptLookup
from anatomy.decode.speculation.record import record
from anatomy.decode.speculation.speculate import GeneratedBySpeculation, speculate
from anatomy.decode.speculation.staged import StagedDraft
from anatomy.decode.speculation.step import (
    Speculation,
    SpeculationState,
    Step,
    append_tokens,
    draft_verify_step,
    start_speculation,
)
from anatomy.decode.speculation.trees import Tree, chain, of_paths, wide

__all__ = [
    "AdaptiveLength",
    "DraftModel",
    "Drafter",
    "GeneratedBySpeculation",
    "PromptLookup",
    "Speculation",
    "SpeculationState",
    "StagedDraft",
    "Step",
    "Tree",
    "append_tokens",
    "chain",
    "draft_verify_step",
    "of_paths",
    "record",
    "speculate",
    "start_speculation",
    "wide",
]
