"""The version, alone: whoever only wants to name it imports nothing else."""

__version__ = '0.2.0.dev0'
