"""What is measured: detectors, where they come from, and the heads that read their outputs."""

from lowbit.detector.detector import Detector, rebuild
from lowbit.detector.registry import REGISTRY, assets_folder, find_detector

__all__ = ["REGISTRY", "Detector", "assets_folder", "find_detector", "rebuild"]
