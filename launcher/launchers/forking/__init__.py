"""How the pool runs siblings: forked from one process, in places of their own, watched and stopped."""
