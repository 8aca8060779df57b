"""From a listing to shards: on this machine, as a Slurm array, with Ray; estimates; tars of others."""
