"""A CLIP on single frames with captions: makes the teacher of the demo."""
