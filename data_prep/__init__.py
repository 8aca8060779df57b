"""umt-data: from folders of videos and annotation files to shards (README.md). No module here imports torch."""
