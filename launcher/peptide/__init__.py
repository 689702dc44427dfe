"""The reference task: de novo peptide sequencing from tandem mass spectra."""
