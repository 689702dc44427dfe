"""Training loops of other libraries, as they are, on the launcher's runs."""
