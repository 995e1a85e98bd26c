"""One training step of the small model on a mesh of devices, laid out by the plans of the cost models.

A mesh has four axes. `pipeline` splits the layers into stages and `tensor` every head and expert (shoeybi2019megatron);
`data` and `expert` split the batch, and `expert` the experts too, so that a plan's replicas are data times expert.
Each device runs the same program:

- A stage passes micro-batches in the order of GPipe (huang2019gpipe) or 1F1B (narayanan2021megatron). Of each it
  keeps what its layers read, and computes every layer again in the backward pass: full recomputation, which plans
  have to ask for (korthikanti2023reducing).
- Experts are reached by all-to-all (lepikhin2021gshard).
- Gradients are summed once a step. With ZeRO 1 they are scattered, each replica updates its part, and the weights
  are gathered (rajbhandari2020zero). With ZeRO 3 a layer's weights are scattered too, and gathered when it runs.
"""

from anatomy.train.mesh.layout import Ways, make_mesh, problems, ways
from anatomy.train.mesh.parts import collect, place
from anatomy.train.mesh.step import MeshStep, make_step
from anatomy.train.mesh.timetable import slots, ticks, timetable

__all__ = [
    "MeshStep",
    "Ways",
    "collect",
    "make_mesh",
    "make_step",
    "place",
    "problems",
    "slots",
    "ticks",
    "timetable",
    "ways",
]
