"""Which sample and which frames a draw shows: pure functions of seed and draw."""
