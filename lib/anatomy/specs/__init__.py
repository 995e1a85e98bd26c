"""What things are: chips, clusters, architectures, vision and plans, and the catalogues of real ones."""

from anatomy.specs import catalogue
from anatomy.specs.architecture import Architecture, Attention, LatentAttention, Parameters, TokenFlop
from anatomy.specs.base import Scalar
from anatomy.specs.catalogue import architecture, chip, cluster, node
from anatomy.specs.cluster import Chip, Cluster, Link, Node
from anatomy.specs.plan import Plan, Recompute
from anatomy.specs.serving import Serving
from anatomy.specs.vision import CrossAttention, Encoder, Resampler

__all__ = [
    "Architecture",
    "Attention",
    "Chip",
    "Cluster",
    "CrossAttention",
    "Encoder",
    "LatentAttention",
    "Link",
    "Node",
    "Parameters",
    "Plan",
    "Recompute",
    "Resampler",
    "Scalar",
    "Serving",
    "TokenFlop",
    "architecture",
    "catalogue",
    "chip",
    "cluster",
    "node",
]
