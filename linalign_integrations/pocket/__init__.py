"""The embedded model: a few million parameters that know a small world of everyday questions.

Its weights travel with the package, so the demo, the tests and a first try need no network. The
modules beside them made it:

- ``world``, ``toolbox`` and ``draws``: what there is to say, which tools there may be, and names
- ``corpus``: conversations of that world, drawn from a seed
- ``judge``: reads an answer's style back from its text
- ``tokenizer`` and ``train``: from conversations to weights
- ``measure`` and ``card``: how well it does, and the model card that says so
"""

from pathlib import Path

__all__ = ["weights"]


def weights() -> Path:
    """Return the packaged folder that `AutoModelForCausalLM.from_pretrained` can load."""
    return Path(__file__).parent / "weights"
