"""Stage 2: video-language pretraining."""
