"""One rank of a training job; an evaluation job."""
