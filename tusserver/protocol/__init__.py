"""GROUND: what tus says. Pure: no I/O, no await, no clock, no room above is imported here."""
