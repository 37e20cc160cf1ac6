"""The bottom layer: what tus says. Pure: no I/O, no await, no clock, no import of another layer."""
