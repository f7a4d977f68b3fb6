"""What is seen of runs: drawings, tables, the page."""
