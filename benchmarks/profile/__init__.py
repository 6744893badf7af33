"""Where the time goes: one picture in one process, and a service under load."""
