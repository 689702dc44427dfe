"""The verbs of the console command, by subject."""
