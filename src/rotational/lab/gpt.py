"""The model of the demo: a small GPT over characters.

Nothing in it is special to rotation: it is the usual architecture at a size that a laptop trains in a minute.
"""

from rotational.lab.models.gpt import GPT, Shape

__all__ = ["GPT", "Shape"]
