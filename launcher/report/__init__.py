"""Looking at runs: trees, comparisons with the trunk, proofs."""
