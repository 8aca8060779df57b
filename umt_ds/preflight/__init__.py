"""What one looks at before a job is queued: machine, run, plan."""
