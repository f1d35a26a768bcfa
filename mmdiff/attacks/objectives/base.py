"""Names of objectives by task, so that a mistyped one is refused before any work."""

NAMES = {
    'detection': (
        'total',
        'cls',
        'reg',
        'cwa',
        'untargeted',
        'vanishing',
        'fabrication',
        'mislabel',
    ),
    'classification': ('total', 'ce'),
}


def objective_names() -> tuple[str, ...]:
    """Return the names of the objectives of all tasks, each once."""
    return tuple(dict.fromkeys(name for names in NAMES.values() for name in names))
