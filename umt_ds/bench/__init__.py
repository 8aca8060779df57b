"""Measurements that anybody can repeat: a command each, never a timed test. RESULTS.md holds what was measured."""
