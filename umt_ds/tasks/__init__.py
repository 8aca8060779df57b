"""What to learn: a room a task. `kinds.room_of` chooses by `task.kind`."""
