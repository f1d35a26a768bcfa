"""Why an attack says nothing about a model."""


class GradientBlocked(RuntimeError):
    """No gradient reaches the image: the attack's failure would say nothing."""

    def __init__(self) -> None:
        super().__init__(
            'The loss does not depend on the image: a module between them runs '
            'under no_grad or detaches, and no attack can see through it.'
        )


class NotApplicable(ValueError):
    """The attack, or its objective, has no meaning for a model of this kind.

    A preset leaves such an attack out and says so; asked for by name, it is an error.
    """
