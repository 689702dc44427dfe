"""Reports: the answer in words, the page in a browser, figures, the board."""
