"""What this machine does: one command measures each part of the suite beside what else there is for it.

`command` runs the sections; each of `selection`, `steps`, `inputs`, `feeding`, `epoch` and `start` is one; `rows`
says what a section is, `targets` what is wanted, `page` and `plot` show it. Nothing passes or fails here: a number
says what this machine did, beside whatever else it had to do.
"""
