"""``launcher report``: one page that holds everything, for a browser without a network."""
