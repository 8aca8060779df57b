"""DeepSpeed JSON files: ZeRO, precision, offload, communication. README.md says which to take."""
