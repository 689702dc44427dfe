"""Vertex AI: the real client against a stand-in that speaks its REST calls, and runs what the jobs say."""
