"""`lit-hidden bench` measures each part of the suite beside its alternatives on this machine."""
