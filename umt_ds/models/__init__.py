"""What is computed: the video student, its aligned heads, the frozen teacher. Nothing here knows a task."""
