"""What this machine does: `lit-hidden bench` measures each part of the suite beside what else there is for it."""
