"""The embedded model: a few million parameters that know a small world of everyday questions.

Its weights travel with the package, so the demo, the tests and a first try need no network. The
modules beside them made it: ``world`` (what there is to say), ``corpus`` (conversations),
``judge`` (reads an answer's style back from its text), ``train`` and ``measure``.
"""

from pathlib import Path

__all__ = ["weights"]


def weights() -> Path:
    """Return the packaged folder that `AutoModelForCausalLM.from_pretrained` can load."""
    return Path(__file__).parent / "weights"
