"""The meeting's page and its slides: what `lit-hidden report` and `lit-hidden slides` write."""
