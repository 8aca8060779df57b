"""How to score what was learned, and how to show it."""
