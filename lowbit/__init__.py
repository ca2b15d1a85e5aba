"""lowbit: does a low-bit detector still see, is it really low-bit, is it really faster, and may it be merged?"""

__version__ = "0.1.0"
