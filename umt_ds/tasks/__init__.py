"""What to learn: one file a task. `build.build_task` chooses by `task.kind`."""
