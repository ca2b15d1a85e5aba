"""shapes10n, the detector that lowbit brings along: its scenes, its training, its weights.

The library's registry (:mod:`lowbit.detector`) loads the weights; nothing here imports pytest.
"""
