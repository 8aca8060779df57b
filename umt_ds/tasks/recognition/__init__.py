"""Action recognition: a video encoder is fine-tuned to name what happens in a clip."""
