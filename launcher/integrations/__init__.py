"""Training libraries as they are: what each needs to take part in the launcher's runs."""
