"""What can be wrong with a forward function.

UnsolvableField
|-- RandomForward     the same image twice gives two answers
|-- BatchDependent    an image's answer depends on the other images of its batch
`-- UnprovenField     boxes were found, but probes contradict them
"""


class UnsolvableField(ValueError):
    """The receptive field of this forward function cannot be found by probes."""


class RandomForward(UnsolvableField):
    """The same image twice gives two answers: dropout or noise is on."""


class BatchDependent(UnsolvableField):
    """An image's answer depends on its batch: batch normalisation runs in training mode."""


class UnprovenField(UnsolvableField):
    """Boxes were found, but probes contradict them, again and again."""
