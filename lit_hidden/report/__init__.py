"""What is seen of runs: tables, and the style of drawings."""
