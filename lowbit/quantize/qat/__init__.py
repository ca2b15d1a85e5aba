"""Quantization-aware training (QAT) of a fake-quantized detector towards its float original. Imports torch."""
