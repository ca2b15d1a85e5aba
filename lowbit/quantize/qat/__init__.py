"""Quantization on the torch side: fake-quantized layers and label-free recovery. Imports torch; nothing else does so."""
