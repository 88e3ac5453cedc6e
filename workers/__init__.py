"""Workers: the processes, and the one place where everything is wired together. Imported by nobody."""
