"""Probes: small classifiers trained on features of a frozen model. They know no run and no task."""
