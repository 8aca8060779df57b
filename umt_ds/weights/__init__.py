"""Weight files: reading them safely, fitting them strictly, translating what others published."""
