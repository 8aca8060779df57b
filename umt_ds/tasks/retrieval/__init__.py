"""Retrieval: the model of stage 2 fine-tuned by contrast and matching, without masks and teacher."""
