"""The bundle: a directory of data (weights, recipes, labels, decision, card) that is verified before it is believed.

::

    bundle/
      spec.json            BundleSpec: task, labels, inputs, members with recipe and network, decision, run, provenance
      weights.safetensors  all members' tensors, by name member0/…
      model.onnx           optional: all members as one graph, (N, C, *spatial) → (N, members, outputs …)
      parity.npz           optional: phantom inputs and the outputs they must give
      CARD.md              the model card
      coarse/              optional: the bundle of a coarse mask, which says where to look
      SHA256SUMS           every file's hash; the bundle's digest is the hash of this

No pickle, no expressions, no import strings, no links, no other folder, no archives that are unpacked.
"""

from medmap.bundle.card import model_card
from medmap.bundle.files import COARSE
from medmap.bundle.parity import export, verify
from medmap.bundle.spec import BundleSpec, InputSpec, LabelSpec, MemberSpec, digest_of_cases
from medmap.bundle.stored import Bundle

__all__ = [
    "COARSE",
    "Bundle",
    "BundleSpec",
    "InputSpec",
    "LabelSpec",
    "MemberSpec",
    "digest_of_cases",
    "export",
    "model_card",
    "verify",
]
