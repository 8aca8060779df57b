"""Start jobs on a cluster: umt-launch."""
