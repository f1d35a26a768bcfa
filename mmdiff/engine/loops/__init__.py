from .robust_test_loop import RobustTestLoop
from .universal_loop import UniversalLoop

__all__ = ['RobustTestLoop', 'UniversalLoop']
