"""How siblings run as CustomJobs of Vertex AI: what a job is made of, checked, submitted, asked about."""
