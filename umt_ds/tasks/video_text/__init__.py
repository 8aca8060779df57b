"""What stage 2 and retrieval share: one model of video and text, how it embeds, and what judges it."""
