"""From the bytes of pictures and videos to frames, and from frames to views."""
