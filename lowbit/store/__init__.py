"""Artifacts on disk: their keys, the store that builds and holds them, the build process, copies on other machines."""
